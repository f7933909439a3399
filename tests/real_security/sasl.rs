//! SASL: every mechanism, with and without TLS.

use mainstem::client::ClientConfig;
use mainstem::config::{OAuthToken, Sasl};

use crate::cluster::{secured, works};

/// Java's property lines for a user.
pub fn user(mechanism: &str, name: &str, password: &str) -> String {
    let module = if mechanism == "PLAIN" { "plain.Plain" } else { "scram.Scram" };
    format!(
        "sasl.mechanism={mechanism}\nsasl.jaas.config=org.apache.kafka.common.security.{module}LoginModule required \
         username=\"{name}\" password=\"{password}\";"
    )
}

/// The unsigned token of a name, good for so many seconds.
pub fn bearer(name: &str, seconds: i64) -> String {
    format!(
        "sasl.mechanism=OAUTHBEARER\nsasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule \
         required unsecuredLoginStringClaim_sub=\"{name}\" unsecuredLoginLifetimeSeconds=\"{seconds}\";"
    )
}

#[tokio::test]
async fn every_mechanism_lets_a_user_in() {
    let Some(kafka) = secured("every_mechanism_lets_a_user_in") else { return };
    let topic = kafka.topic("sasl").await;
    for listener in ["SASL_PLAINTEXT", "SASL_SSL"] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            works(kafka.client(listener, &user(mechanism, "alice", "alice-secret")), &topic).await;
        }
        works(kafka.client(listener, &bearer("alice", 600)), &topic).await;
    }
    for sasl in [Sasl::plain("alice", "alice-secret"), Sasl::scram_sha_256("alice", "alice-secret")] {
        let mut config = ClientConfig::new(kafka.address("SASL_PLAINTEXT"));
        config.security.sasl = Some(sasl);
        works(config, &topic).await;
    }
}

/// A token of the unsecured kind, as a provider or a file would have it.
pub fn token(name: &str) -> String {
    use base64::Engine as _;
    let part = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    let claims = format!("{{\"sub\":\"{name}\",\"iat\":1600000000,\"exp\":4100000000}}");
    format!("{}.{}.", part("{\"alg\":\"none\"}"), part(&claims))
}

#[tokio::test]
async fn tokens_come_from_a_provider_or_a_file() {
    let Some(kafka) = secured("tokens_come_from_a_provider_or_a_file") else { return };
    let topic = kafka.topic("tokens").await;
    let mut config = kafka.client("SASL_SSL", "");
    config.security.sasl = Some(Sasl::oauth_bearer(async || Ok(OAuthToken::new(token("alice")))));
    works(config, &topic).await;
    let path = kafka.file("token");
    std::fs::write(&path, token("alice") + "\n").unwrap();
    // Without a jaas.config, which the file makes unnecessary; the listener's own is replaced by an empty one.
    let more = format!(
        "sasl.mechanism=OAUTHBEARER\nsasl.jaas.config=\nsasl.oauthbearer.token.endpoint.url=file://{}",
        path.display()
    );
    works(kafka.client("SASL_PLAINTEXT", &more), &topic).await;
}

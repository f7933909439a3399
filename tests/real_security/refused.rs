//! Wrong users and wrong ports.

use mainstem::ErrorKind;
use mainstem::client::ClientConfig;
use mainstem::config::{Sasl, Tls};

use crate::cluster::{no_way_in, secured};
use crate::sasl::{bearer, user};

#[tokio::test]
async fn strangers_are_told_what_to_change() {
    let Some(kafka) = secured("strangers_are_told_what_to_change") else { return };
    for listener in ["SASL_PLAINTEXT", "SASL_SSL"] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            for (name, password) in [("alice", "wrong-secret"), ("nobody", "alice-secret")] {
                let words = [mechanism, "username and password", "the broker says"];
                let config = kafka.client(listener, &user(mechanism, name, password));
                no_way_in(config, ErrorKind::Authentication, &words).await;
            }
        }
        let words = ["OAUTHBEARER", "expired"];
        no_way_in(kafka.client(listener, &bearer("alice", 0)), ErrorKind::Authentication, &words).await;
    }
}

#[tokio::test]
async fn a_port_of_another_kind_is_named() {
    let Some(kafka) = secured("a_port_of_another_kind_is_named") else { return };
    let at = |address: &str, tls: bool, sasl: bool| {
        let mut config = ClientConfig::new(address);
        config.security.tls = tls.then(|| Tls::trusting(kafka.file("ca.pem")));
        config.security.sasl = sasl.then(|| Sasl::scram_sha_256("alice", "alice-secret"));
        config
    };
    let (broken, fatal) = (ErrorKind::Connection, ErrorKind::Authentication);
    // Whether something that breaks off is of another kind cannot be known: such errors are tried again for a while.
    for (config, kind, words) in [
        (at(&kafka.plain, true, false), broken, &["TLS listener", "security.protocol"][..]),
        (at(&kafka.plain, true, true), broken, &["TLS listener", "security.protocol"]),
        (at(&kafka.plain, false, true), fatal, &["without SASL", "security.protocol"]),
        (at(&kafka.address("SSL"), false, false), broken, &["SSL or SASL_SSL"]),
        (at(&kafka.address("SSL"), true, true), fatal, &["without SASL", "security.protocol"]),
        (at(&kafka.address("SASL_PLAINTEXT"), false, false), broken, &["SASL", "security.protocol"]),
        (at(&kafka.address("SASL_PLAINTEXT"), true, true), broken, &["TLS listener", "security.protocol"]),
        (at(&kafka.address("SASL_SSL"), true, false), broken, &["SASL", "security.protocol"]),
        (at(&kafka.address("SASL_SSL"), false, true), broken, &["SSL or SASL_SSL"]),
    ] {
        no_way_in(config, kind, words).await;
    }
}

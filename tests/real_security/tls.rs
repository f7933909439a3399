//! TLS: trust, names, versions, and the client's own certificate.

use mainstem::ErrorKind;
use mainstem::client::{Admin, ClientConfig, Cluster, NewTopic};
use mainstem::config::{KeyStore, Pem, Tls};

use crate::cluster::{Secured, is, no_way_in, secured, soon, works};

fn trusting(kafka: &Secured, listener: &str, authorities: &str) -> ClientConfig {
    let mut config = ClientConfig::new(kafka.address(listener));
    config.security.tls = Some(Tls::trusting(kafka.file(authorities)));
    config
}

#[tokio::test]
async fn the_brokers_certificate_lets_the_client_in() {
    let Some(kafka) = secured("the_brokers_certificate_lets_the_client_in") else { return };
    let topic = kafka.topic("tls").await;
    works(kafka.client("SSL", ""), &topic).await;
    works(trusting(kafka, "SSL", "ca.pem"), &topic).await;
    for version in ["TLSv1.2", "TLSv1.3"] {
        works(kafka.client("SSL", &format!("ssl.enabled.protocols={version}")), &topic).await;
    }
    // The authorities themselves, their lines ended by blanks, as a continued line of a properties file has them.
    let authorities = kafka.text("ca.pem").replace('\n', " ");
    let mut config = ClientConfig::new(kafka.address("SSL").replace("127.0.0.1", "localhost"));
    config.security.tls = Some({
        let mut tls = Tls::default();
        tls.truststore = Some(Pem::Text(authorities.into()));
        tls
    });
    works(config, &topic).await;
}

#[tokio::test]
async fn certificates_that_prove_nothing_are_refused() {
    let Some(kafka) = secured("certificates_that_prove_nothing_are_refused") else { return };
    let fatal = ErrorKind::Authentication;
    for version in ["TLSv1.2", "TLSv1.3"] {
        let version = format!("ssl.enabled.protocols={version}");
        no_way_in(kafka.client("EXPIRED", &version), fatal, &["has expired", "127.0.0.1"]).await;
        let words = ["for other hosts", "advertised.listeners", "elsewhere.example"];
        no_way_in(kafka.client("ELSEWHERE", &version), fatal, &words).await;
    }
    let words = ["does not trust", "ssl.truststore.location"];
    no_way_in(trusting(kafka, "SSL", "foreign-ca.pem"), fatal, &words).await;
    // Those that this machine trusts, if it trusts any.
    let mut config = ClientConfig::new(kafka.address("SSL"));
    config.security.tls = Some(Tls::default());
    let error = soon(Cluster::connect(config)).await.unwrap_err();
    assert!(format!("{error:?}").contains("ssl.truststore.location"), "{error:?}");
}

#[tokio::test]
async fn names_need_not_be_checked_and_authorities_still_are() {
    let Some(kafka) = secured("names_need_not_be_checked_and_authorities_still_are") else { return };
    let topic = kafka.topic("names").await;
    let off = "ssl.endpoint.identification.algorithm=";
    for version in ["TLSv1.2", "TLSv1.3"] {
        let more = format!("{off}\nssl.enabled.protocols={version}");
        works(kafka.client("ELSEWHERE", &more), &topic).await;
    }
    let foreign = format!("{off}\nssl.truststore.location={}", kafka.file("foreign-ca.pem").display());
    no_way_in(kafka.client("ELSEWHERE", &foreign), ErrorKind::Authentication, &["does not trust"]).await;
    no_way_in(kafka.client("EXPIRED", off), ErrorKind::Authentication, &["has expired"]).await;
}

#[tokio::test]
async fn the_client_has_a_certificate_of_its_own() {
    let Some(kafka) = secured("the_client_has_a_certificate_of_its_own") else { return };
    // Whoever has a name but alice may do nothing here, and being told so is being let in.
    let named = async |config: ClientConfig| {
        let cluster = soon(Cluster::connect(config)).await.unwrap();
        let error = soon(Admin::new(&cluster).create_topic(NewTopic::new("mine", 1))).await.unwrap_err();
        is(&error, ErrorKind::Authorization, &["grant"]);
    };
    for version in ["TLSv1.2", "TLSv1.3"] {
        named(kafka.client("MTLS", &format!("ssl.enabled.protocols={version}"))).await;
    }
    let encrypted = format!(
        "ssl.keystore.location={}\nssl.key.password=client-secret",
        kafka.file("client-encrypted.pem").display()
    );
    named(kafka.client("MTLS", &encrypted)).await;
    let mut config = trusting(kafka, "MTLS", "ca.pem");
    if let Some(tls) = &mut config.security.tls {
        let key = Pem::Text(kafka.text("client-encrypted.key").into());
        tls.keystore =
            Some(KeyStore::new(Pem::File(kafka.file("client.crt")), key).password("client-secret"));
    }
    named(config).await;
}

#[tokio::test]
async fn without_a_certificate_that_is_trusted_there_is_no_way_in() {
    let Some(kafka) = secured("without_a_certificate_that_is_trusted_there_is_no_way_in") else { return };
    for version in ["TLSv1.2", "TLSv1.3"] {
        let version = format!("ssl.enabled.protocols={version}\n");
        let words = ["ssl.keystore.location"];
        let foreign =
            format!("{version}ssl.keystore.location={}", kafka.file("client-foreign.pem").display());
        no_way_in(kafka.client("MTLS", &foreign), ErrorKind::Authentication, &words).await;
        let mut none = kafka.client("MTLS", &version);
        if let Some(tls) = &mut none.security.tls {
            tls.keystore = None;
        }
        no_way_in(none, ErrorKind::Authentication, &words).await;
    }
}

#[tokio::test]
async fn stores_that_cannot_be_used_are_named() {
    let Some(kafka) = secured("stores_that_cannot_be_used_are_named") else { return };
    let encrypted = kafka.file("client-encrypted.pem").display().to_string();
    let key_of_another = {
        let path = kafka.file("mixed.pem");
        std::fs::write(&path, kafka.text("server.key") + &kafka.text("client.crt")).unwrap();
        path.display().to_string()
    };
    let jks = kafka.file("store.jks");
    std::fs::write(&jks, [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]).unwrap();
    let p12 = kafka.file("store.p12");
    std::fs::write(&p12, [0x30, 0x82, 1, 0, 2, 1, 3]).unwrap();
    let located = |what: &str, path: &str| format!("ssl.{what}.location={path}");
    for (more, words) in [
        (located("keystore", &encrypted), &["ssl.key.password"][..]),
        (located("keystore", &encrypted) + "\nssl.key.password=wrong-secret", &["ssl.key.password"]),
        (located("keystore", &key_of_another), &["does not belong"]),
        (located("keystore", &kafka.file("client.crt").display().to_string()), &["no private key"]),
        (located("truststore", "/nowhere.pem"), &["/nowhere.pem", "ssl.truststore.location"]),
        (located("truststore", &jks.display().to_string()), &["JKS", "keytool"]),
        (located("truststore", &p12.display().to_string()), &["PKCS12", "openssl"]),
        (located("truststore", &kafka.file("client.key").display().to_string()), &["no certificate"]),
    ] {
        no_way_in(kafka.client("MTLS", &more), ErrorKind::Config, words).await;
    }
}

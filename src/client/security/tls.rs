//! TLS, by rustls: whom to trust, who we are, and what its errors mean.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, ServerName,
    UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pem;
use crate::client::config::Address;
use crate::config::{KeyStore, Pem, Secret, Tls, TlsVersion};
use crate::{Error, ErrorClass, ErrorKind, Result};

/// Makes TLS out of TCP.
#[derive(Clone)]
pub(super) struct Connector(TlsConnector);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector(..)")
    }
}

impl Connector {
    pub(super) fn new(tls: &Tls) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(match &tls.truststore {
            Some(store) => trusted(store)?,
            None => trusted_by_the_machine()?,
        });
        let versions: Vec<&'static SupportedProtocolVersion> = tls
            .versions
            .iter()
            .map(|version| match version {
                TlsVersion::Tls12 => &rustls::version::TLS12,
                TlsVersion::Tls13 => &rustls::version::TLS13,
            })
            .collect();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|cause| config("ssl.enabled.protocols cannot be used".to_owned()).because(cause))?;
        let config = if tls.verify_hostname {
            config.with_root_certificates(roots)
        } else {
            let inner =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
            let inner = inner
                .build()
                .map_err(|cause| self::config("the trust store cannot be used".to_owned()).because(cause))?;
            config.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { roots, provider, inner }))
        };
        let config = match &tls.keystore {
            None => config.with_no_client_auth(),
            Some(store) => {
                let (chain, key) = identity(store)?;
                config.with_client_auth_cert(chain, key).map_err(|cause| {
                    self::config("ssl.keystore.* has a key that does not belong to its certificate, or is of no known kind".to_owned())
                        .because(cause)
                })?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn connect(&self, stream: TcpStream, address: &Address) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(address.host.clone()).map_err(|cause| {
            config(format!("{:?} is no name that a certificate can be for", address.host)).because(cause)
        })?;
        self.0.connect(name, stream).await.map_err(|cause| {
            explain(&cause).map(|error| error.at_host(address)).unwrap_or_else(|| {
                let text = match cause.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                        "the broker ended the TLS handshake: is this a TLS listener? If not, correct the port or security.protocol"
                    }
                    _ => "the connection broke during the TLS handshake",
                };
                Error::new(ErrorKind::Connection, text).with_class(ErrorClass::Retriable).because(cause)
            })
        })
    }
}

/// To say which host it was about, where that matters.
trait AtHost {
    fn at_host(self, address: &Address) -> Self;
}

impl AtHost for Error {
    fn at_host(self, address: &Address) -> Self {
        let class = self.class();
        let text = format!("TLS with {} failed", address.host);
        Error::new(self.kind(), text).with_class(class).because(self)
    }
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// The text of a PEM source; `property` is for errors.
fn text(source: &Pem, property: &str) -> Result<Secret> {
    let path = match source {
        Pem::Text(text) => return Ok(text.clone()),
        Pem::File(path) => path,
    };
    let bytes = std::fs::read(path).map_err(|cause| {
        config(format!("{property}.location={} cannot be read", path.display())).because(cause)
    })?;
    if let Some(what) = pem::other_format(&bytes) {
        return Err(config(format!("{property}.location={} {what}", path.display())));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(config(format!("{property}.location={} is not PEM", path.display()))),
    }
}

fn certificates(source: &Pem, property: &str) -> Result<Vec<CertificateDer<'static>>> {
    let text = text(source, property)?;
    let blocks = pem::blocks(text.expose()).map_err(|why| config(format!("the PEM of {property} {why}")))?;
    // TRUSTED CERTIFICATE is OpenSSL's own, with rules behind the certificate.
    let found: Vec<_> = blocks
        .into_iter()
        .filter(|block| matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE"))
        .map(|block| CertificateDer::from(block.der))
        .collect();
    if found.is_empty() {
        return Err(config(format!("the PEM of {property} has no certificate (BEGIN CERTIFICATE)")));
    }
    Ok(found)
}

fn trusted(store: &Pem) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(store, "ssl.truststore")? {
        roots.add(certificate).map_err(|cause| {
            config("the PEM of ssl.truststore has a certificate that cannot be read".to_owned())
                .because(cause)
        })?;
    }
    Ok(roots)
}

fn trusted_by_the_machine() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, strange) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(added, strange, "took the certificates that this machine trusts");
    match (roots.is_empty(), found.errors.into_iter().next()) {
        (false, _) => Ok(roots),
        (true, cause) => {
            let error = config(
                "this machine trusts no certificates: install them (Debian: ca-certificates), or set ssl.truststore.location"
                    .to_owned(),
            );
            Err(match cause {
                Some(cause) => error.because(cause),
                None => error,
            })
        }
    }
}

fn identity(store: &KeyStore) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(&store.certificates, "ssl.keystore")?;
    let text = text(&store.key, "ssl.keystore")?;
    let blocks =
        pem::blocks(text.expose()).map_err(|why| config(format!("the PEM of ssl.keystore {why}")))?;
    for block in blocks {
        let key = match block.label {
            "PRIVATE KEY" => PrivatePkcs8KeyDer::from(block.der).into(),
            "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(block.der).into(),
            "EC PRIVATE KEY" => PrivateSec1KeyDer::from(block.der).into(),
            "ENCRYPTED PRIVATE KEY" => decrypt(&block.der, store.password.as_ref())?,
            _ => continue,
        };
        return Ok((chain, key));
    }
    Err(config("the PEM of ssl.keystore has no private key (BEGIN PRIVATE KEY)".to_owned()))
}

/// Opens PKCS#8 (RFC 5958) that is encrypted by PBES2, which is what OpenSSL and Java write.
fn decrypt(der: &[u8], password: Option<&Secret>) -> Result<PrivateKeyDer<'static>> {
    let Some(password) = password else {
        return Err(config("the key of ssl.keystore is encrypted: set ssl.key.password".to_owned()));
    };
    let wrong = |cause: pkcs8::Error| {
        config(
            "the key of ssl.keystore cannot be decrypted: check ssl.key.password; it must be PBES2 (openssl pkcs8 -topk8 -v2 \
             aes-256-cbc)"
                .to_owned(),
        )
        // The inner error is an enumeration, and says nothing of either.
        .because(cause.to_string())
    };
    let sealed = pkcs8::EncryptedPrivateKeyInfo::try_from(der).map_err(wrong)?;
    let open = sealed.decrypt(password.expose()).map_err(wrong)?;
    Ok(PrivatePkcs8KeyDer::from(open.as_bytes().to_vec()).into())
}

/// Trusts the authorities' certificates for any name: `ssl.endpoint.identification.algorithm` is empty (KIP-294).
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, between, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What a fault means; `None` if TLS has nothing to do with it.
///
/// As in Java certificates and alerts about them are fatal (`SslAuthenticationException`): another attempt ends alike. In
/// TLS 1.3 a broker refuses the client's certificate when the handshake is over for the client, so such an alert also comes
/// in the middle of the first answers.
pub(super) fn explain(fault: &io::Error) -> Option<Error> {
    let cause = fault.get_ref()?.downcast_ref::<rustls::Error>()?;
    let fatal = |text: &str| Error::new(ErrorKind::Authentication, text);
    let error = match cause {
        rustls::Error::InvalidCertificate(wrong) => fatal(distrust(wrong)),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => fatal(
                "the broker wants a certificate of this client that it trusts: set ssl.keystore.location (or \
                 ssl.keystore.certificate.chain and ssl.keystore.key) to one from an authority in the broker's trust store that \
                 has not expired",
            ),
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity => fatal(
                "the broker has no version or cipher suite of TLS in common with this client, or wants a client certificate: \
                 check ssl.enabled.protocols on both sides, and ssl.keystore.location",
            ),
            _ => Error::new(ErrorKind::Connection, "the broker ended the connection with a TLS alert")
                .with_class(ErrorClass::Retriable),
        },
        rustls::Error::PeerIncompatible(_) => fatal(
            "the broker's TLS has nothing in common with this client's: check ssl.enabled.protocols and the suites of the broker",
        ),
        rustls::Error::InvalidMessage(_) => Error::new(
            ErrorKind::Corrupt,
            "what answers does not speak TLS: correct the port, or set security.protocol to PLAINTEXT or SASL_PLAINTEXT",
        )
        .with_class(ErrorClass::Retriable),
        _ => Error::new(ErrorKind::Connection, "TLS failed").with_class(ErrorClass::Retriable),
    };
    Some(error.because(cause.clone()))
}

fn distrust(wrong: &CertificateError) -> &'static str {
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the broker's certificate has expired: renew it (or set this machine's clock right)"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet: set this machine's clock right, or wait"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the broker's certificate is for other hosts: give it a subject alternative name for this one, or use a name it has in \
             bootstrap.servers and the broker's advertised.listeners (ssl.endpoint.identification.algorithm= turns the check off)"
        }
        CertificateError::UnknownIssuer => {
            "the broker's certificate comes from an authority that this client does not trust: set ssl.truststore.location to a \
             PEM file with that authority"
        }
        CertificateError::Revoked => "the broker's certificate was revoked: renew it",
        _ => {
            "the broker's certificate cannot be used: give it a subject alternative name and sign it with an authority (a \
             certificate that is its own authority is not taken, except as an authority in ssl.truststore)"
        }
    }
}

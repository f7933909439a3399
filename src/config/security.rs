//! How clients prove who they are, and whom they trust: from Kafka's `security.*`, `ssl.*` and `sasl.*` properties to what
//! a connection needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::properties::SecurityValues;
use super::token::{OAuthTokenProvider, OAuthTokens, UnsecuredTokens};
use super::value::{SaslMechanism, SecurityProtocol};
use super::{Secret, jaas};

/// How a client reaches brokers: with or without TLS, with or without SASL. The default is neither, `PLAINTEXT`.
///
/// ```
/// use mainstem::client::ClientConfig;
/// use mainstem::config::{Sasl, Security, Tls};
///
/// let mut config = ClientConfig::new("kafka:9093");
/// config.security = Security {
///     tls: Some(Tls::trusting("/etc/kafka/ca.pem")),
///     sasl: Some(Sasl::scram_sha_512("alice", "alice-secret")),
/// };
/// ```
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// TLS: `SSL` and `SASL_SSL`. Needs the crate's feature `tls`.
    pub tls: Option<Tls>,
    /// SASL: `SASL_PLAINTEXT` and `SASL_SSL`. Needs the crate's feature `sasl`.
    pub sasl: Option<Sasl>,
}

impl Security {
    /// What is asked for and was not built in.
    pub(crate) fn missing_feature(&self) -> Option<String> {
        let missing = |what: &str, feature: &str| {
            Some(format!(
                "security.protocol asks for {what}, which is not built in: turn the crate's feature {feature} on"
            ))
        };
        if self.tls.is_some() && !cfg!(feature = "tls") {
            return missing("TLS", "tls");
        }
        if self.sasl.is_some() && !cfg!(feature = "sasl") {
            return missing("SASL", "sasl");
        }
        None
    }
}

/// Certificates or a key in PEM.
#[derive(Debug, Clone)]
pub enum Pem {
    /// A file with them; it is read when the client connects for the first time.
    File(PathBuf),
    /// The text itself. Line breaks may be blanks.
    Text(Secret),
}

/// Whom a client trusts, and who it is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tls {
    /// `ssl.truststore.*`: the certificate authorities that brokers' certificates must come from. `None`: those of this
    /// machine.
    pub truststore: Option<Pem>,
    /// `ssl.keystore.*`: the client's own certificate, for brokers that ask for one.
    pub keystore: Option<KeyStore>,
    /// `ssl.endpoint.identification.algorithm`: whether the broker's certificate must be for the host that was asked for.
    pub verify_hostname: bool,
    /// `ssl.enabled.protocols`.
    pub versions: Vec<TlsVersion>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            truststore: None,
            keystore: None,
            verify_hostname: true,
            versions: vec![TlsVersion::Tls12, TlsVersion::Tls13],
        }
    }
}

impl Tls {
    /// TLS with brokers whose certificates come from an authority of this PEM file.
    pub fn trusting(authorities: impl AsRef<Path>) -> Self {
        Self { truststore: Some(Pem::File(authorities.as_ref().to_owned())), ..Self::default() }
    }
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyStore {
    /// The certificate first, then those between it and the authority.
    pub certificates: Pem,
    /// The private key.
    pub key: Pem,
    /// `ssl.key.password`: what the key is encrypted with, if it is.
    pub password: Option<Secret>,
}

impl KeyStore {
    /// Certificates and key, which is not encrypted.
    pub fn new(certificates: Pem, key: Pem) -> Self {
        Self { certificates, key, password: None }
    }

    /// Says what the key is encrypted with.
    #[must_use]
    pub fn password(mut self, password: impl Into<Secret>) -> Self {
        self.password = Some(password.into());
        self
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLSv1.2
    Tls12,
    /// TLSv1.3
    Tls13,
}

/// Who a client is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Sasl {
    /// PLAIN: the password goes over the wire, so use it with TLS.
    Plain {
        /// The user.
        username: String,
        /// Its password.
        password: Secret,
    },
    /// SCRAM-SHA-256 or SCRAM-SHA-512.
    Scram {
        /// Which of the two.
        mechanism: SaslMechanism,
        /// The user.
        username: String,
        /// Its password.
        password: Secret,
    },
    /// OAUTHBEARER.
    OAuthBearer(OAuthTokens),
}

impl Sasl {
    /// PLAIN with a user and its password.
    pub fn plain(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::Plain { username: username.into(), password: password.into() }
    }

    /// SCRAM-SHA-256 with a user and its password.
    pub fn scram_sha_256(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        let mechanism = SaslMechanism::ScramSha256;
        Self::Scram { mechanism, username: username.into(), password: password.into() }
    }

    /// SCRAM-SHA-512 with a user and its password.
    pub fn scram_sha_512(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        let mechanism = SaslMechanism::ScramSha512;
        Self::Scram { mechanism, username: username.into(), password: password.into() }
    }

    /// OAUTHBEARER with the tokens that a provider brings.
    pub fn oauth_bearer(provider: impl OAuthTokenProvider) -> Self {
        Self::OAuthBearer(OAuthTokens::Provider(Arc::new(provider)))
    }

    /// What Kafka calls the mechanism.
    pub fn mechanism(&self) -> SaslMechanism {
        match self {
            Self::Plain { .. } => SaslMechanism::Plain,
            Self::Scram { mechanism, .. } => *mechanism,
            Self::OAuthBearer(_) => SaslMechanism::OAuthBearer,
        }
    }
}

/// The class of the login module that a mechanism has on the JVM.
pub(super) fn login_module(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Plain => "org.apache.kafka.common.security.plain.PlainLoginModule",
        SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512 => {
            "org.apache.kafka.common.security.scram.ScramLoginModule"
        }
        SaslMechanism::OAuthBearer => "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule",
    }
}

/// What the properties ask for; what is wrong with them is added to the errors.
pub(super) fn resolve(
    values: &SecurityValues,
    provider: Option<&Arc<dyn OAuthTokenProvider>>,
    errors: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Security {
    let protocol = values.security_protocol;
    let (with_tls, with_sasl) = match protocol {
        SecurityProtocol::Plaintext => (false, false),
        SecurityProtocol::Ssl => (true, false),
        SecurityProtocol::SaslPlaintext => (false, true),
        SecurityProtocol::SaslSsl => (true, true),
    };
    let mut warn = |warning: String| {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    };
    let store = values.ssl_truststore_location.is_some() || values.ssl_keystore_location.is_some();
    if !with_tls && (store || values.ssl_truststore_certificates.is_some()) {
        warn(format!(
            "security.protocol={protocol} sends everything unencrypted: what ssl. sets has no effect"
        ));
    }
    if !with_sasl
        && (values.sasl_mechanism.is_some() || values.sasl_jaas_config.is_some() || provider.is_some())
    {
        warn(format!("security.protocol={protocol} proves nothing by SASL: what sasl. sets has no effect"));
    }
    let mut security = Security::default();
    if with_tls {
        security.tls = tls(values).map_err(|why| errors.push(why)).ok();
    }
    if with_sasl {
        security.sasl = sasl(values, provider).map_err(|why| errors.push(why)).ok();
    }
    if security.tls.as_ref().is_some_and(|tls| !tls.verify_hostname) {
        warn(
            "ssl.endpoint.identification.algorithm is empty: any holder of a trusted certificate can pose as a broker"
                .to_owned(),
        );
    }
    if let (None, Some(Sasl::Plain { .. })) = (&security.tls, &security.sasl) {
        warn(
            "sasl.mechanism=PLAIN sends the password unencrypted without TLS: set security.protocol=SASL_SSL"
                .to_owned(),
        );
    }
    errors.extend(security.missing_feature());
    security
}

fn tls(values: &SecurityValues) -> Result<Tls, String> {
    only_pem("ssl.truststore", &values.ssl_truststore_type)?;
    only_pem("ssl.keystore", &values.ssl_keystore_type)?;
    let truststore = match (&values.ssl_truststore_location, &values.ssl_truststore_certificates) {
        (Some(_), Some(_)) => {
            return Err(
                "ssl.truststore.location and ssl.truststore.certificates are both set: set one".to_owned()
            );
        }
        (Some(path), None) => Some(Pem::File(path.into())),
        (None, Some(text)) => Some(Pem::Text(text.as_str().into())),
        (None, None) => None,
    };
    let chain = &values.ssl_keystore_certificate_chain;
    let password = values.ssl_key_password.clone();
    let keystore = match (&values.ssl_keystore_location, chain, &values.ssl_keystore_key) {
        (None, None, None) => None,
        (Some(path), None, None) => {
            Some(KeyStore { certificates: Pem::File(path.into()), key: Pem::File(path.into()), password })
        }
        (None, Some(chain), Some(key)) => {
            let certificates = Pem::Text(chain.as_str().into());
            Some(KeyStore { certificates, key: Pem::Text(key.clone()), password })
        }
        (None, ..) => {
            return Err(
                "ssl.keystore.certificate.chain and ssl.keystore.key go together: set both".to_owned()
            );
        }
        (Some(_), ..) => {
            return Err(
                "ssl.keystore.location and ssl.keystore.key or ssl.keystore.certificate.chain are set: set the location, or \
                 the other two"
                    .to_owned(),
            );
        }
    };
    let verify_hostname = match values.ssl_endpoint_identification_algorithm.to_ascii_lowercase().as_str() {
        "https" => true,
        "" => false,
        other => {
            return Err(format!(
                "ssl.endpoint.identification.algorithm={other} must be https, or empty for none (KIP-294)"
            ));
        }
    };
    let mut versions = Vec::new();
    for name in &values.ssl_enabled_protocols {
        versions.push(match name.as_str() {
            "TLSv1.2" => TlsVersion::Tls12,
            "TLSv1.3" => TlsVersion::Tls13,
            other => return Err(format!("ssl.enabled.protocols has {other}: there are TLSv1.2 and TLSv1.3")),
        });
    }
    if versions.is_empty() {
        return Err("ssl.enabled.protocols is empty: name TLSv1.2, TLSv1.3 or both".to_owned());
    }
    Ok(Tls { truststore, keystore, verify_hostname, versions })
}

fn only_pem(store: &str, kind: &str) -> Result<(), String> {
    if kind.eq_ignore_ascii_case("PEM") {
        return Ok(());
    }
    let convert = if store == "ssl.keystore" {
        "keytool -importkeystore -srckeystore STORE -destkeystore store.p12 -deststoretype PKCS12, then openssl pkcs12 -in \
         store.p12 -out store.pem"
    } else {
        "keytool -list -rfc -keystore STORE > store.pem"
    };
    Err(format!(
        "{store}.type={kind} is not read here, PEM is: convert it ({convert}), and set {store}.type=PEM"
    ))
}

fn sasl(values: &SecurityValues, provider: Option<&Arc<dyn OAuthTokenProvider>>) -> Result<Sasl, String> {
    let mechanism = match (values.sasl_mechanism, provider) {
        (None, Some(_)) => SaslMechanism::OAuthBearer,
        (Some(mechanism), _) => mechanism,
        (None, None) => {
            return Err(
                "sasl.mechanism is not set, and Java's default GSSAPI (Kerberos) is not spoken here: set PLAIN, SCRAM-SHA-256, \
                 SCRAM-SHA-512 or OAUTHBEARER"
                    .to_owned(),
            );
        }
    };
    let file = token_file(values.sasl_oauthbearer_token_endpoint_url.as_deref())?;
    let entry = match &values.sasl_jaas_config {
        Some(text) => Some(jaas::parse(text.expose()).map_err(|why| format!("sasl.jaas.config {why}"))?),
        None => None,
    };
    let wanted = login_module(mechanism);
    if let Some(entry) = &entry
        && entry.class() != wanted.rsplit('.').next().unwrap_or_default()
    {
        return Err(format!(
            "sasl.jaas.config names another login module than that of sasl.mechanism={mechanism}, which is {wanted}"
        ));
    }
    let sasl = match (mechanism, entry) {
        (SaslMechanism::OAuthBearer, entry) => Sasl::OAuthBearer(tokens(provider, file, entry)?),
        (_, None) => {
            return Err(format!(
                "sasl.jaas.config is not set: {wanted} required username=\"...\" password=\"...\";"
            ));
        }
        (_, Some(mut entry)) => {
            if entry.take("tokenauth").is_some_and(|token| token.eq_ignore_ascii_case("true")) {
                return Err(
                    "sasl.jaas.config has tokenauth, and delegation tokens are not supported: name a user"
                        .to_owned(),
                );
            }
            let mut needed = |key: &str| {
                let value = entry.take(key).filter(|value| !value.is_empty());
                value.ok_or_else(|| {
                    format!("sasl.jaas.config has no {key}: add {key}=\"...\" before the semicolon")
                })
            };
            let (username, password) = (needed("username")?, Secret::new(needed("password")?));
            if username.contains('\0') || password.expose().contains('\0') {
                return Err("sasl.jaas.config has a user or password with a zero character".to_owned());
            }
            match mechanism {
                SaslMechanism::Plain => Sasl::Plain { username, password },
                _ => Sasl::Scram { mechanism, username, password },
            }
        }
    };
    Ok(sasl)
}

/// `sasl.oauthbearer.token.endpoint.url` as a file.
fn token_file(url: Option<&str>) -> Result<Option<PathBuf>, String> {
    let Some(url) = url else { return Ok(None) };
    let path = url.strip_prefix("file:").map(|path| path.strip_prefix("//").unwrap_or(path));
    match path {
        Some(path) if path.starts_with('/') || cfg!(windows) => Ok(Some(path.into())),
        Some(_) => Err("sasl.oauthbearer.token.endpoint.url must have an absolute path: file:///path/to/token".to_owned()),
        None => Err(
            "sasl.oauthbearer.token.endpoint.url must be file:///path/to/token here: tokens are not fetched over HTTP, pass \
             an OAuthTokenProvider that does"
                .to_owned(),
        ),
    }
}

fn tokens(
    provider: Option<&Arc<dyn OAuthTokenProvider>>,
    file: Option<PathBuf>,
    entry: Option<jaas::Entry>,
) -> Result<OAuthTokens, String> {
    let mut entry = entry;
    let mut extensions = Vec::new();
    let mut texts = Vec::new();
    let mut lifetime_seconds = 3600;
    if let Some(entry) = &mut entry {
        extensions = entry.take_all("extension_");
        extensions.extend(entry.take_all("unsecuredLoginExtension_"));
        texts = entry.take_all("unsecuredLoginStringClaim_");
        if let Some(seconds) = entry.take("unsecuredLoginLifetimeSeconds") {
            lifetime_seconds = seconds.parse().map_err(|_| {
                "sasl.jaas.config has an unsecuredLoginLifetimeSeconds that is not a number".to_owned()
            })?;
        }
        if let Some(other) = entry.left().next() {
            return Err(format!(
                "sasl.jaas.config has the option {other}, which is not supported: pass an OAuthTokenProvider, or set \
                 sasl.oauthbearer.token.endpoint.url=file:///path/to/token"
            ));
        }
    }
    for (name, value) in &extensions {
        check_extension(name, value)
            .map_err(|why| format!("sasl.jaas.config has an extension that {why}"))?;
    }
    match (provider, file) {
        (Some(provider), None) => Ok(OAuthTokens::Provider(Arc::clone(provider))),
        (Some(_), Some(_)) => {
            Err("sasl.oauthbearer.token.endpoint.url is set beside an OAuthTokenProvider: give one"
                .to_owned())
        }
        (None, Some(path)) => Ok(OAuthTokens::File(path, extensions)),
        (None, None) if texts.iter().any(|(name, _)| name == "sub") => {
            Ok(OAuthTokens::Unsecured(UnsecuredTokens { texts, lifetime_seconds, extensions }))
        }
        (None, None) => Err("sasl.mechanism=OAUTHBEARER has no tokens: pass an OAuthTokenProvider, or set \
             sasl.oauthbearer.token.endpoint.url=file:///path/to/token"
            .to_owned()),
    }
}

/// What RFC 7628 and KIP-342 allow beside a token.
pub(crate) fn check_extension(name: &str, value: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "auth" || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err("has a name other than letters, or auth, which is the token's");
    }
    let legal = |b: u8| matches!(b, 0x20..=0x7e | b'\t' | b'\r' | b'\n');
    if !value.bytes().all(legal) {
        return Err("has a value with control characters");
    }
    Ok(())
}

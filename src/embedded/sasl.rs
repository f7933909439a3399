//! Who a connection speaks for: SASL with PLAIN (RFC 4616) and SCRAM (RFC 5802, KIP-84), the broker's side.
//!
//! One [`Exchange`] a connection, after Kafka's `SaslServerAuthenticator`: SaslHandshake names the mechanism, and each
//! SaslAuthenticate brings one of its tokens.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hmac::{Hmac, Mac};
use sha2::digest::Digest;
use sha2::{Sha256, Sha512};

/// What Kafka names its mechanisms.
pub(crate) const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
/// The fewest iterations that Kafka accepts (`ScramMechanism.minIterations`).
const ITERATIONS: u32 = 4096;

/// The users of a broker: names and passwords.
pub(crate) type Users = [(String, String)];

fn password<'a>(users: &'a Users, name: &str) -> Option<&'a str> {
    users.iter().find(|(known, _)| known == name).map(|(_, password)| password.as_str())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Scram(Hash),
}

/// What was exchanged with one connection so far.
#[derive(Debug, Default)]
enum State {
    /// SaslHandshake has not come yet.
    #[default]
    Start,
    /// The mechanism is agreed upon.
    Chosen(Mechanism),
    /// The server's first message has gone out.
    Challenged(Challenge),
    Done(String),
    /// Only the end of the connection is left.
    Failed,
}

#[derive(Debug)]
struct Challenge {
    hash: Hash,
    user: String,
    /// The user's password; of an unknown user nothing, so that it fails like a wrong one, and as late.
    password: Option<String>,
    nonce: String,
    salt: Vec<u8>,
    /// The client's first message without its header, and the server's, with a comma between.
    messages: String,
}

/// Why a connection is not let in; its words go to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such mechanism here: UNSUPPORTED_SASL_MECHANISM.
    Mechanism,
    /// Not the time for this request: ILLEGAL_SASL_STATE.
    State(&'static str),
    /// SASL_AUTHENTICATION_FAILED.
    Authentication(String),
}

/// How far a connection has come.
#[derive(Debug, Default)]
pub(crate) struct Exchange(State);

impl Exchange {
    /// Who it is, once that is proved.
    pub(crate) fn user(&self) -> Option<&str> {
        match &self.0 {
            State::Done(user) => Some(user),
            _ => None,
        }
    }

    /// SaslHandshake. Once authenticated, it begins anew (KIP-368).
    pub(crate) fn handshake(&mut self, mechanism: &str) -> Result<(), Refusal> {
        if !matches!(self.0, State::Start | State::Done(_)) {
            self.0 = State::Failed;
            return Err(Refusal::State("SaslHandshake request received after a mechanism was chosen"));
        }
        self.0 = match mechanism {
            "PLAIN" => State::Chosen(Mechanism::Plain),
            "SCRAM-SHA-256" => State::Chosen(Mechanism::Scram(Hash::Sha256)),
            "SCRAM-SHA-512" => State::Chosen(Mechanism::Scram(Hash::Sha512)),
            _ => {
                self.0 = State::Failed;
                return Err(Refusal::Mechanism);
            }
        };
        Ok(())
    }

    /// SaslAuthenticate: the answer to a token of the client. `random` is for nonce and salt.
    pub(crate) fn authenticate(
        &mut self,
        users: &Users,
        token: &[u8],
        random: impl FnOnce() -> [u8; 32],
    ) -> Result<Vec<u8>, Refusal> {
        match std::mem::replace(&mut self.0, State::Failed) {
            State::Start | State::Failed => {
                Err(Refusal::State("SaslAuthenticate request received before SaslHandshake"))
            }
            State::Done(user) => {
                self.0 = State::Done(user);
                Err(Refusal::State("SaslAuthenticate request received after successful authentication"))
            }
            State::Chosen(Mechanism::Plain) => {
                let user = plain(users, token)?;
                self.0 = State::Done(user);
                Ok(Vec::new())
            }
            State::Chosen(Mechanism::Scram(hash)) => {
                let (challenge, answer) = challenge(users, hash, token, random())?;
                self.0 = State::Challenged(challenge);
                Ok(answer)
            }
            State::Challenged(challenge) => {
                let answer = match challenge.hash {
                    Hash::Sha256 => challenge.verify::<Sha256>(token),
                    Hash::Sha512 => challenge.verify::<Sha512>(token),
                };
                let answer = answer.ok_or_else(|| invalid(challenge.hash))?;
                self.0 = State::Done(challenge.user);
                Ok(answer)
            }
        }
    }
}

/// `[authzid] NUL authcid NUL passwd`.
fn plain(users: &Users, token: &[u8]) -> Result<String, Refusal> {
    let malformed = || {
        let text = "Invalid SASL/PLAIN response: expected 3 tokens".to_owned();
        Refusal::Authentication(text)
    };
    let text = std::str::from_utf8(token).map_err(|_| malformed())?;
    let fields: Vec<&str> = text.split('\0').collect();
    let [authorised, user, password] = fields[..] else { return Err(malformed()) };
    let refuse = |text: &str| Err(Refusal::Authentication(text.to_owned()));
    if user.is_empty() {
        return refuse("Authentication failed: username not specified");
    }
    if password.is_empty() {
        return refuse("Authentication failed: password not specified");
    }
    if self::password(users, user) != Some(password) {
        return refuse("Authentication failed: Invalid username or password");
    }
    if !authorised.is_empty() && authorised != user {
        return refuse(
            "Authentication failed: Client requested an authorization id that is different from username",
        );
    }
    Ok(user.to_owned())
}

/// Answers `n,[a=authzid],n=user,r=nonce[,extensions]`.
fn challenge(
    users: &Users,
    hash: Hash,
    token: &[u8],
    random: [u8; 32],
) -> Result<(Challenge, Vec<u8>), Refusal> {
    let first = std::str::from_utf8(token).ok().and_then(ClientFirst::parse);
    let first = first
        .ok_or_else(|| Refusal::Authentication("Invalid SCRAM client first message format".to_owned()))?;
    if !first.authorised.is_empty() && first.authorised != first.user {
        let text =
            "Authentication failed: Client requested an authorization id that is different from username";
        return Err(Refusal::Authentication(text.to_owned()));
    }
    let (nonce, salt) = random.split_at(16);
    let nonce = format!("{}{}", first.nonce, BASE64_STANDARD.encode(nonce));
    let server_first = format!("r={nonce},s={},i={ITERATIONS}", BASE64_STANDARD.encode(salt));
    let challenge = Challenge {
        hash,
        password: password(users, &first.user).map(str::to_owned),
        user: first.user,
        nonce,
        salt: salt.to_vec(),
        messages: format!("{},{server_first}", first.bare),
    };
    Ok((challenge, server_first.into_bytes()))
}

fn invalid(hash: Hash) -> Refusal {
    let name = match hash {
        Hash::Sha256 => MECHANISMS[1],
        Hash::Sha512 => MECHANISMS[2],
    };
    let text = format!(
        "Authentication failed during authentication due to invalid credentials with SASL mechanism {name}"
    );
    Refusal::Authentication(text)
}

struct ClientFirst<'a> {
    authorised: String,
    user: String,
    nonce: &'a str,
    bare: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix("n,")?;
        let (authorised, bare) = rest.split_once(',')?;
        let authorised = match authorised {
            "" => String::new(),
            name => unescape(name.strip_prefix("a=")?)?,
        };
        let mut fields = bare.split(',');
        let user = unescape(fields.next()?.strip_prefix("n=")?)?;
        let nonce = fields.next()?.strip_prefix("r=").filter(|nonce| !nonce.is_empty())?;
        Some(Self { authorised, user, nonce, bare })
    }
}

/// A SCRAM `saslname`: a comma and an equals sign are escaped, and nothing else is.
fn unescape(name: &str) -> Option<String> {
    let plain = name.replace("=2C", ",").replace("=3D", "\u{0}");
    (!plain.contains('=')).then(|| plain.replace('\u{0}', "="))
}

/// A hash with its key, as SCRAM calls it.
trait ScramHash: Digest {
    fn hmac(key: &[u8], message: &[u8]) -> Vec<u8>;
}

macro_rules! scram_hash {
    ($($hash:ty),*) => {$(
        impl ScramHash for $hash {
            fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
                let mac = <Hmac<$hash> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
                mac.chain_update(message).finalize().into_bytes().to_vec()
            }
        }
    )*};
}

scram_hash!(Sha256, Sha512);

fn xor(a: &mut [u8], b: &[u8]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
}

/// `Hi` of RFC 5802, which is one block of PBKDF2.
fn salted<H: ScramHash>(password: &str, salt: &[u8]) -> Vec<u8> {
    let mut round = H::hmac(password.as_bytes(), &[salt, &1u32.to_be_bytes()].concat());
    let mut sum = round.clone();
    for _ in 1..ITERATIONS {
        round = H::hmac(password.as_bytes(), &round);
        xor(&mut sum, &round);
    }
    sum
}

impl Challenge {
    /// Answers `c=biws,r=nonce,p=proof`.
    fn verify<H: ScramHash>(&self, token: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(token).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        // Base64 of `n,,`: no channel binding. With an authzid Kafka takes what comes.
        let (binding, nonce) = without_proof.strip_prefix("c=")?.split_once(",r=")?;
        BASE64_STANDARD.decode(binding).ok().filter(|header| header.starts_with(b"n,"))?;
        if nonce != self.nonce {
            return None;
        }
        let mut client_key = BASE64_STANDARD.decode(proof).ok()?;
        let password = self.password.as_ref()?;
        let salted = salted::<H>(password, &self.salt);
        let messages = format!("{},{without_proof}", self.messages);
        let stored_key = H::digest(H::hmac(&salted, b"Client Key"));
        let signature = H::hmac(&stored_key, messages.as_bytes());
        if client_key.len() != signature.len() {
            return None;
        }
        xor(&mut client_key, &signature);
        if H::digest(&client_key) != stored_key {
            return None;
        }
        let server_key = H::hmac(&salted, b"Server Key");
        let signature = H::hmac(&server_key, messages.as_bytes());
        Some(format!("v={}", BASE64_STANDARD.encode(signature)).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One side of a connection.
    #[derive(Default)]
    struct Broker(Exchange);

    impl Broker {
        fn handshake(&mut self, mechanism: &str) -> Result<(), Refusal> {
            self.0.handshake(mechanism)
        }

        fn authenticate(&mut self, token: &[u8]) -> Result<Vec<u8>, Refusal> {
            let users = [("user", "pencil"), ("a,b=c", "secret")];
            let users = users.map(|(name, password)| (name.to_owned(), password.to_owned()));
            self.0.authenticate(&users, token, || std::array::from_fn(|at| at as u8))
        }
    }

    fn plain(token: &str) -> Result<Option<String>, Refusal> {
        let mut broker = Broker::default();
        broker.handshake("PLAIN").unwrap();
        let answer = broker.authenticate(token.as_bytes());
        assert_eq!(broker.0.user().is_some(), answer.is_ok());
        answer.map(|answer| {
            assert!(answer.is_empty());
            broker.0.user().map(str::to_owned)
        })
    }

    #[test]
    fn plain_wants_name_and_password() {
        assert_eq!(plain("\0user\0pencil"), Ok(Some("user".to_owned())));
        assert_eq!(plain("user\0user\0pencil"), Ok(Some("user".to_owned())));
        for bad in [
            "\0user\0pen",
            "\0nobody\0pencil",
            "\0\0pencil",
            "\0user\0",
            "user\0pencil",
            "",
            "x\0user\0pencil",
        ] {
            assert!(matches!(plain(bad), Err(Refusal::Authentication(_))), "{bad:?}");
        }
    }

    /// The client's side, as far as a test needs it.
    fn scram<H: ScramHash>(
        broker: &mut Broker,
        mechanism: &str,
        name: &str,
        password: &str,
    ) -> Result<(), Refusal> {
        broker.handshake(mechanism)?;
        let bare = format!("n={name},r=fyko");
        let first = broker.authenticate(format!("n,,{bare}").as_bytes())?;
        let first = String::from_utf8(first).unwrap();
        let fields: Vec<&str> = first.split(',').map(|field| &field[2..]).collect();
        assert!(fields[0].starts_with("fyko") && fields[0].len() > 4);
        assert_eq!(fields[2], "4096");
        let salted = salted::<H>(password, &BASE64_STANDARD.decode(fields[1]).unwrap());
        let without_proof = format!("c=biws,r={}", fields[0]);
        let messages = format!("{bare},{first},{without_proof}");
        let mut proof = H::hmac(&salted, b"Client Key");
        let stored = H::digest(&proof);
        xor(&mut proof, &H::hmac(&stored, messages.as_bytes()));
        let last = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
        assert!(broker.0.user().is_none());
        let answer = broker.authenticate(last.as_bytes())?;
        let server = H::hmac(&H::hmac(&salted, b"Server Key"), messages.as_bytes());
        assert_eq!(answer, format!("v={}", BASE64_STANDARD.encode(server)).into_bytes());
        Ok(())
    }

    #[test]
    fn scram_proves_the_password_both_ways() {
        let mut one = Broker::default();
        scram::<Sha256>(&mut one, "SCRAM-SHA-256", "user", "pencil").unwrap();
        assert_eq!(one.0.user(), Some("user"));
        // Again on the same connection, with the other hash.
        scram::<Sha512>(&mut one, "SCRAM-SHA-512", "a=2Cb=3Dc", "secret").unwrap();
        assert_eq!(one.0.user(), Some("a,b=c"));
        for (name, password) in [("user", "pen"), ("nobody", "pencil")] {
            let mut broker = Broker::default();
            let answer = scram::<Sha256>(&mut broker, "SCRAM-SHA-256", name, password);
            assert_eq!(answer, Err(invalid(Hash::Sha256)));
            assert!(broker.0.user().is_none());
        }
    }

    /// RFC 7677 has an example for SHA-256.
    #[test]
    fn scram_computes_what_the_standard_does() {
        let challenge = Challenge {
            hash: Hash::Sha256,
            user: "user".to_owned(),
            password: Some("pencil".to_owned()),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(),
            salt: BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
            messages: "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
                .to_owned(),
        };
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let answer = challenge.verify::<Sha256>(last.as_bytes()).unwrap();
        assert_eq!(answer, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".as_slice().to_vec());
    }

    #[test]
    fn malformed_scram_is_refused() {
        for bad in
            ["", "n,,", "y,,n=user,r=x", "n,,n=us=er,r=x", "n,,n=user,r=", "n,,n=user", "p=tls,,n=user,r=x"]
        {
            let mut broker = Broker::default();
            broker.handshake("SCRAM-SHA-256").unwrap();
            let answer = broker.authenticate(bad.as_bytes());
            assert!(matches!(answer, Err(Refusal::Authentication(_))), "{bad:?}");
        }
        for bad in ["", "c=biws", "c=biws,r=x,p=AAAA", "c=biws,r=fyko,p="] {
            let mut broker = Broker::default();
            broker.handshake("SCRAM-SHA-256").unwrap();
            broker.authenticate(b"n,,n=user,r=fyko").unwrap();
            assert_eq!(broker.authenticate(bad.as_bytes()), Err(invalid(Hash::Sha256)), "{bad:?}");
        }
    }

    #[test]
    fn requests_out_of_turn_are_refused() {
        let mut broker = Broker::default();
        assert!(matches!(broker.authenticate(b""), Err(Refusal::State(_))));
        let mut broker = Broker::default();
        assert_eq!(broker.handshake("GSSAPI"), Err(Refusal::Mechanism));
        assert!(matches!(broker.authenticate(b""), Err(Refusal::State(_))));
        let mut broker = Broker::default();
        broker.handshake("PLAIN").unwrap();
        assert!(matches!(broker.handshake("PLAIN"), Err(Refusal::State(_))));
        let mut broker = Broker::default();
        broker.handshake("PLAIN").unwrap();
        broker.authenticate(b"\0user\0pencil").unwrap();
        assert!(broker.0.user().is_some());
        assert!(matches!(broker.authenticate(b""), Err(Refusal::State(_))));
        assert!(broker.0.user().is_some());
    }
}

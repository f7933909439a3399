//! SCRAM (RFC 5802, RFC 7677), the client's side, without channel binding.
//!
//! As in Java's `ScramFormatter` names and passwords are taken as their UTF-8 bytes: no SASLprep.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::digest::{KeyInit, Output};
use hmac::{Hmac, Mac};
use pbkdf2::pbkdf2_hmac_array;
use sha2::{Digest, Sha256, Sha512};

/// The fewest iterations that are done: with less the proof gives the password away (`ScramMechanism.minIterations`).
const MIN_ITERATIONS: u32 = 4_096;
/// The most: a broker takes no more than 16 384 into its metadata, older ones took what they were told. A hostile one could
/// keep the client busy for as long as it likes.
const MAX_ITERATIONS: u32 = 1 << 18;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// What is wrong with a message of the server.
pub(super) type Refusal = &'static str;

/// The client's first message without its header (`n,,`).
pub(super) fn first(username: &str, nonce: &str) -> String {
    // A comma and an equals sign of a name are escaped.
    format!("n={},r={nonce}", username.replace('=', "=3D").replace(',', "=2C"))
}

/// The client's proof, and what proves that the server knows the password as well.
pub(super) struct Proof {
    /// The client's last message.
    pub(super) message: String,
    hash: Hash,
    server_key: Vec<u8>,
    signed: String,
}

/// Answers the server's first message. This takes some milliseconds of a processor.
pub(super) fn prove(
    hash: Hash,
    password: &str,
    nonce: &str,
    first: &str,
    challenge: &[u8],
) -> Result<Proof, Refusal> {
    const FORM: Refusal = "its first message has not the form of SCRAM";
    let challenge = std::str::from_utf8(challenge).map_err(|_| FORM)?;
    let mut fields = challenge.split(',');
    let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name)).ok_or(FORM);
    let (theirs, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
    if theirs.len() <= nonce.len() || !theirs.starts_with(nonce) {
        return Err("its nonce does not begin with the client's");
    }
    let salt = BASE64_STANDARD.decode(salt).map_err(|_| FORM)?;
    let iterations: u32 = iterations.parse().map_err(|_| FORM)?;
    if iterations < MIN_ITERATIONS {
        return Err("it asks for fewer than 4096 iterations: write the user's credentials again with more");
    }
    if iterations > MAX_ITERATIONS {
        return Err("it asks for more than 262144 iterations: write the user's credentials again with fewer");
    }
    // `biws` is the header in base64.
    let last = format!("c=biws,r={theirs}");
    let signed = format!("{first},{challenge},{last}");
    let (proof, server_key) = match hash {
        Hash::Sha256 => {
            let salted = pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
            keys::<Sha256, Hmac<Sha256>>(&salted, &signed)
        }
        Hash::Sha512 => {
            let salted = pbkdf2_hmac_array::<Sha512, 64>(password.as_bytes(), &salt, iterations);
            keys::<Sha512, Hmac<Sha512>>(&salted, &signed)
        }
    };
    let message = format!("{last},p={}", BASE64_STANDARD.encode(proof));
    Ok(Proof { message, hash, server_key, signed })
}

fn hmac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Output<M> {
    let mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(message).finalize().into_bytes()
}

/// The client's proof and the server's key.
fn keys<H: Digest, M: Mac + KeyInit>(salted: &[u8], signed: &str) -> (Vec<u8>, Vec<u8>) {
    let client_key = hmac::<M>(salted, b"Client Key");
    let stored_key = H::digest(&client_key);
    let signature = hmac::<M>(&stored_key, signed.as_bytes());
    let proof = client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
    (proof, hmac::<M>(salted, b"Server Key").to_vec())
}

impl Proof {
    /// Checks the server's last message: whoever does not know the password cannot have made it.
    pub(super) fn verify(&self, message: &[u8]) -> Result<(), Refusal> {
        let text = std::str::from_utf8(message).map_err(|_| "its last message is not text")?;
        if text.starts_with("e=") {
            return Err("it refuses the proof");
        }
        let signature = text.strip_prefix("v=").ok_or("its last message has no signature")?;
        // Extensions may follow.
        let signature = signature.split(',').next().unwrap_or_default();
        let signature = BASE64_STANDARD.decode(signature).map_err(|_| "its signature is not base64")?;
        let key = self.server_key.as_slice();
        let signed = self.signed.as_bytes();
        // `verify_slice` takes the same time wherever the two differ.
        let good = match self.hash {
            Hash::Sha256 => <Hmac<Sha256> as Mac>::new_from_slice(key)
                .map(|mac| mac.chain_update(signed).verify_slice(&signature)),
            Hash::Sha512 => <Hmac<Sha512> as Mac>::new_from_slice(key)
                .map(|mac| mac.chain_update(signed).verify_slice(&signature)),
        };
        match good {
            Ok(Ok(())) => Ok(()),
            _ => Err("its signature is wrong: it does not know the password, and may be somebody else"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn example() -> Proof {
        let first = first("user", NONCE);
        prove(Hash::Sha256, "pencil", NONCE, &first, CHALLENGE.as_bytes()).ok().unwrap()
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard() {
        let proof = example();
        assert_eq!(
            proof.message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        proof.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        let proof = example();
        for (message, words) in [
            ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "signature"),
            ("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "may be somebody else"),
            ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5n", "may be somebody else"),
            ("v=", "may be somebody else"),
            ("", "no signature"),
            ("e=other-error", "refuses"),
        ] {
            let why = proof.verify(message.as_bytes()).unwrap_err();
            assert!(why.contains(words), "{message}: {why}");
        }
    }

    #[test]
    fn a_hostile_first_message_is_refused() {
        let first = first("user", NONCE);
        let long = format!("r={NONCE}x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=");
        for (challenge, words) in [
            (format!("{long}4095"), "fewer"),
            (format!("{long}1"), "fewer"),
            (format!("{long}262145"), "more than"),
            (format!("{long}4294967295"), "more than"),
            (format!("{long}4294967296"), "form"),
            (format!("{long}-1"), "form"),
            (format!("r={NONCE},s=AA==,i=4096"), "nonce"),
            ("r=other,s=AA==,i=4096".to_owned(), "nonce"),
            (format!("r={NONCE}x,s=%,i=4096"), "form"),
            ("m=ext,r=x".to_owned(), "form"),
            (String::new(), "form"),
        ] {
            let why = prove(Hash::Sha512, "pencil", NONCE, &first, challenge.as_bytes()).err().unwrap();
            assert!(why.contains(words), "{challenge}: {why}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(first("a,b=c", "x"), "n=a=2Cb=3Dc,r=x");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Without a sound nonce in front nothing is computed, so that this is quick.
        #[test]
        fn any_message_is_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "([rsicvem]=|,|[0-9A-Z+/=]){0,20}") {
            let nonce = "cannot be guessed";
            for message in [&bytes[..], text.as_bytes()] {
                prop_assert!(prove(Hash::Sha256, "pencil", nonce, "n=user", message).is_err());
                let proof = Proof { message: String::new(), hash: Hash::Sha512, server_key: vec![1], signed: "x".into() };
                prop_assert!(proof.verify(message).is_err());
            }
        }
    }
}

//! PEM (RFC 7468), as forgiving as Java's `DefaultSslEngineFactory`: line breaks may be blanks, and text may stand around it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// What stood between a `BEGIN` and its `END`.
pub(super) struct Block<'a> {
    /// What it is, such as `CERTIFICATE`.
    pub(super) label: &'a str,
    /// Its bytes (DER).
    pub(super) der: Vec<u8>,
}

/// The blocks of a text in their order; the error is what is wrong, without a word of the text.
pub(super) fn blocks(text: &str) -> Result<Vec<Block<'_>>, &'static str> {
    let (mut blocks, mut rest) = (Vec::new(), text);
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let (label, body) = begun.split_once("-----").ok_or("has a BEGIN line without its dashes")?;
        let (body, after) = body.split_once("-----END ").ok_or("has a BEGIN without an END")?;
        rest = after.strip_prefix(label).ok_or("has a BEGIN with an END of another name")?;
        if body.contains("Proc-Type") {
            return Err(
                "has a key that is encrypted in OpenSSL's old format: convert it (openssl pkcs8 -topk8 -in KEY -out KEY.pk8)",
            );
        }
        let digits: String = body.split_whitespace().collect();
        let der = BASE64_STANDARD.decode(digits).map_err(|_| "has a block that is not base64")?;
        blocks.push(Block { label, der });
    }
    Ok(blocks)
}

/// What a store is that is not PEM, and how to make it PEM; `None` for anything unknown.
pub(super) fn other_format(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xfe, 0xed, 0xfe, 0xed, ..] => Some(
            "is a Java key store (JKS): convert it (keytool -list -rfc -keystore STORE > store.pem for a trust store, keytool \
             -importkeystore -srckeystore STORE -destkeystore store.p12 -deststoretype PKCS12 and openssl pkcs12 -in store.p12 \
             -out store.pem for a key store)",
        ),
        [0x30, 0x80..=0x84, ..] => Some(
            "is DER or PKCS12: convert it (openssl pkcs12 -in STORE -out store.pem, or openssl x509 -inform DER -in FILE \
             -out store.pem)",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_are_found_in_any_layout() {
        let text = "Bag Attributes\n-----BEGIN CERTIFICATE-----\nAAEC\nAwQ=\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY----- BQYH \
                    CAk= -----END PRIVATE KEY-----";
        let found = blocks(text).ok().unwrap();
        let found: Vec<_> = found.iter().map(|block| (block.label, &*block.der)).collect();
        assert_eq!(found, [("CERTIFICATE", &[0, 1, 2, 3, 4][..]), ("PRIVATE KEY", &[5, 6, 7, 8, 9][..])]);
        assert!(blocks("no PEM at all").ok().unwrap().is_empty());
        for (bad, words) in [
            ("-----BEGIN X", "dashes"),
            ("-----BEGIN X-----AAAA", "without an END"),
            ("-----BEGIN X-----AAAA-----END Y-----", "another name"),
            ("-----BEGIN X-----A-----END X-----", "base64"),
            ("-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END X-----", "openssl pkcs8"),
        ] {
            let why = blocks(bad).err().unwrap();
            assert!(why.contains(words), "{bad}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(-----(BEGIN|END) ?|X|-|\\PC| |AAAA){0,30}") {
            drop(blocks(&text));
        }
    }
}

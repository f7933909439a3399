//! `sasl.jaas.config`: a login module of the JVM and its options, as Java's `JaasConfig` reads them.
//!
//! No error repeats any of the text: there is a password in it.

use std::iter::Peekable;
use std::str::Chars;

/// One entry: `module flag key="value" ...;`
pub(super) struct Entry {
    /// The class of the login module.
    pub(super) module: String,
    /// Its options in their order; a key that is given twice has its last value, as in Java.
    options: Vec<(String, String)>,
}

impl Entry {
    /// The name of the class without its package.
    pub(super) fn class(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or_default()
    }

    /// Takes an option out.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.options.iter().rposition(|(known, _)| known == key)?;
        let (_, value) = self.options.remove(at);
        self.options.retain(|(known, _)| known != key);
        Some(value)
    }

    /// Takes out what begins with a prefix: the rest of the key, and the value.
    pub(super) fn take_all(&mut self, prefix: &str) -> Vec<(String, String)> {
        let named = self.options.extract_if(.., |(key, _)| key.starts_with(prefix));
        named.map(|(key, value)| (key[prefix.len()..].to_owned(), value)).collect()
    }

    /// The keys that nobody has taken.
    pub(super) fn left(&self) -> impl Iterator<Item = &str> {
        self.options.iter().map(|(key, _)| key.as_str())
    }
}

#[derive(PartialEq)]
enum Token {
    /// A word, or what stood in quotes.
    Text(String),
    /// `=`, `;`, or what has no business here.
    Sign(char),
}

/// Reads the one entry there must be; the error is what is wrong, without a word of the text.
pub(super) fn parse(text: &str) -> Result<Entry, &'static str> {
    const FORM: &str = "must have the form: class required key=\"value\" key=\"value\";";
    let mut tokens = Tokens(text.chars().peekable());
    let Some(Token::Text(module)) = tokens.next()? else { return Err(FORM) };
    let Some(Token::Text(flag)) = tokens.next()? else { return Err(FORM) };
    let flags = ["required", "requisite", "sufficient", "optional"];
    if !flags.iter().any(|known| flag.eq_ignore_ascii_case(known)) {
        return Err("has no control flag after the class: write required");
    }
    let mut options = Vec::new();
    loop {
        match tokens.next()? {
            Some(Token::Sign(';')) => break,
            Some(Token::Text(key)) => match (tokens.next()?, tokens.next()?) {
                (Some(Token::Sign('=')), Some(Token::Text(value))) => options.push((key, value)),
                _ => return Err("has an option without a value: write key=\"value\""),
            },
            Some(Token::Sign(_)) => return Err("has a value that needs quotes: write key=\"value\""),
            None => return Err("does not end with a semicolon"),
        }
    }
    match tokens.next()? {
        None => Ok(Entry { module, options }),
        Some(_) => Err("has more than one login module: name one"),
    }
}

/// What Java's `StreamTokenizer` makes of the text, as `JaasConfig` sets it up. Numbers are words here: Java refuses a
/// value that is a bare number, and nobody means anything else by it.
struct Tokens<'a>(Peekable<Chars<'a>>);

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>, &'static str> {
        loop {
            let Some(c) = self.0.next() else { return Ok(None) };
            match c {
                c if c <= ' ' => {}
                '/' if self.0.peek() == Some(&'/') => while self.0.next_if(|c| *c != '\n').is_some() {},
                '/' if self.0.peek() == Some(&'*') => self.comment(),
                '"' | '\'' => return self.quoted(c).map(Some),
                c if is_word(c) => {
                    let mut word = String::from(c);
                    while let Some(c) = self.0.next_if(|c| is_word(*c)) {
                        word.push(c);
                    }
                    return Ok(Some(Token::Text(word)));
                }
                c => return Ok(Some(Token::Sign(c))),
            }
        }
    }

    fn comment(&mut self) {
        self.0.next();
        while let Some(c) = self.0.next() {
            if c == '*' && self.0.next_if_eq(&'/').is_some() {
                return;
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Token, &'static str> {
        let mut text = String::new();
        loop {
            let c = match self.0.next() {
                Some(c) if c == quote => return Ok(Token::Text(text)),
                None | Some('\n' | '\r') => return Err("has a quote that is not closed on its line"),
                Some('\\') => match self.0.next() {
                    Some(digit @ '0'..='7') => self.octal(digit),
                    Some('a') => '\u{7}',
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('v') => '\u{b}',
                    Some(c) => c,
                    None => return Err("has a quote that is not closed on its line"),
                },
                Some(c) => c,
            };
            text.push(c);
        }
    }

    /// Up to three digits, no more than `\377`.
    fn octal(&mut self, first: char) -> char {
        let mut value = first.to_digit(8).unwrap_or(0);
        for _ in 0..if first <= '3' { 2 } else { 1 } {
            let Some(digit) = self.0.next_if(|c| c.is_digit(8)) else { break };
            value = value * 8 + digit.to_digit(8).unwrap_or(0);
        }
        char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '$' | '.') || c >= '\u{a0}'
}

/// The text that [`parse`] reads as these options.
pub(super) fn write(module: &str, options: &[(&str, &str)]) -> String {
    let mut text = format!("{module} required");
    for (key, value) in options {
        text.push_str(&format!(" {key}=\""));
        for c in value.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                // What would end the line or be cut off; three digits, so that one that follows is not taken for a fourth.
                c if c < ' ' => text.push_str(&format!("\\{:03o}", u32::from(c))),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text.push(';');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_read_as_java_reads_them() {
        let text = "org.apache.kafka.common.security.scram.ScramLoginModule // the class\n  REQUIRED /* all\n of it */ username=\"al ice\"\n \
                    password=\"a\\\"b\\\\c\\t\\101\" other='it;s' bare=word-1.5_$;";
        let mut entry = parse(text).ok().unwrap();
        assert_eq!(entry.class(), "ScramLoginModule");
        assert_eq!(entry.take("username").as_deref(), Some("al ice"));
        assert_eq!(entry.take("password").as_deref(), Some("a\"b\\c\tA"));
        assert_eq!(entry.take("other").as_deref(), Some("it;s"));
        assert_eq!(entry.take_all("ba"), [("re".to_owned(), "word-1.5_$".to_owned())]);
        assert_eq!(entry.left().count(), 0);
        let mut twice = parse("A required k=a k=b;").ok().unwrap();
        assert_eq!((twice.take("k").as_deref(), twice.take("k")), (Some("b"), None));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_text() {
        for (text, words) in [
            ("", "the form"),
            ("A", "the form"),
            ("A hunter2 k=v;", "control flag"),
            ("A required password=\"hunter2\"", "semicolon"),
            ("A required password=hunter2; B required;", "more than one"),
            ("A required password=\"hunter2;", "quote"),
            ("A required password=\"hunter\n2\";", "quote"),
            ("A required password;", "without a value"),
            ("A required password=hunter2!;", "needs quotes"),
        ] {
            let why = parse(text).err().unwrap();
            assert!(why.contains(words) && !why.contains("hunter"), "{text}: {why}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|[a =;\"'\\\\/*\n0-9]{0,40}") {
            drop(parse(&text));
        }

        #[test]
        fn what_is_written_is_read_back(user in any::<String>(), password in any::<String>()) {
            let text = write("M", &[("username", &user), ("password", &password)]);
            let mut entry = parse(&text).ok().unwrap();
            prop_assert_eq!(entry.take("username"), Some(user));
            prop_assert_eq!(entry.take("password"), Some(password));
        }
    }
}

//! The text of Java's `.properties` files (`java.util.Properties.load`).

/// The keys and values, in order. A line is a key, then `=`, `:` or space, then a value; `#` and `!` begin comments; a
/// backslash at the end joins lines, elsewhere it escapes.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.trim_start_matches(BLANK).to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while logical.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1 {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(BLANK));
        }
        let fail = |why| format!("line {}: {why}", number + 1);
        let end = key_end(&logical);
        let value = logical[end..].trim_start_matches(BLANK);
        let value = value.strip_prefix(['=', ':']).unwrap_or(value).trim_start_matches(BLANK);
        pairs.push((unescape(&logical[..end]).map_err(fail)?, unescape(value).map_err(fail)?));
    }
    Ok(pairs)
}

const BLANK: [char; 3] = [' ', '\t', '\x0c'];

fn key_end(line: &str) -> usize {
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '=' | ':' | ' ' | '\t' | '\x0c' => return at,
            _ => {}
        }
    }
    line.len()
}

fn unescape(text: &str) -> Result<String, &'static str> {
    let mut units = Vec::with_capacity(text.len()); // UTF-16, because \u escapes may be halves of a pair
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                    units.push(unit.ok_or("\\u without four hexadecimal digits")?);
                    continue;
                }
                Some(other) => other,
                None => continue,
            },
            c => c,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).map_err(|_| "\\u with half of a surrogate pair")
}

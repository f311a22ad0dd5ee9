//! A body as people can read it: JSON with line breaks, anything else as a hex dump. Never changes a character of JSON:
//! order, numbers and escapes are as they were sent.

use crate::cli::words::safe;

/// Bytes of a dump at most.
const DUMPED: usize = 16 << 10;
const INDENT: usize = 2;

/// What a body is called.
pub(super) fn kind(body: Option<&[u8]>) -> String {
    match body {
        None => "null (a tombstone)".to_owned(),
        Some([]) => "empty".to_owned(),
        Some(body) => {
            let what = if is_json(body) {
                ", JSON"
            } else if std::str::from_utf8(body).is_ok() {
                ", text"
            } else {
                ""
            };
            format!("{} byte{}{what}", body.len(), if body.len() == 1 { "" } else { "s" })
        }
    }
}

/// The body, each line ended.
pub(super) fn text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(json) if is_json(body) => {
            let safe = |line: &str| format!("{}\n", safe(line));
            pretty(json).lines().map(safe).collect()
        }
        _ => dump(body),
    }
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// A valid JSON text with a line for each member and element.
fn pretty(json: &str) -> String {
    let mut out = Pretty { text: String::with_capacity(json.len() * 2), depth: 0 };
    let (mut quoted, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            _ if quoted => {
                out.text.push(c);
                (quoted, escaped) = match c {
                    _ if escaped => (true, false),
                    '\\' => (true, true),
                    '"' => (false, false),
                    _ => (true, false),
                };
            }
            '"' => {
                out.text.push(c);
                quoted = true;
            }
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => out.open(c),
            '}' | ']' => out.close(c),
            ',' => {
                out.text.push(c);
                out.line();
            }
            ':' => out.text.push_str(": "),
            other => out.text.push(other),
        }
    }
    out.text
}

struct Pretty {
    text: String,
    depth: usize,
}

impl Pretty {
    fn open(&mut self, c: char) {
        self.text.push(c);
        self.depth += 1;
        self.line();
    }

    /// Nothing in it: no line either.
    fn close(&mut self, c: char) {
        self.depth -= 1;
        let inside = self.text.trim_end();
        if inside.ends_with(['{', '[']) {
            self.text.truncate(inside.len());
        } else {
            self.line();
        }
        self.text.push(c);
    }

    fn line(&mut self) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', self.depth * INDENT));
    }
}

/// Offset, sixteen bytes, and what of them is visible ASCII.
fn dump(body: &[u8]) -> String {
    let mut out = String::new();
    let shown = &body[..body.len().min(DUMPED)];
    for (number, bytes) in shown.chunks(16).enumerate() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let visible = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' };
        let ascii: String = bytes.iter().map(visible).collect();
        out.push_str(&format!("{:08x}  {hex:48} |{ascii}|\n", number * 16));
    }
    match body.len() - shown.len() {
        0 => out,
        more => out + &format!("and {more} bytes more (--body writes all of them)\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gets_lines_and_keeps_every_character() {
        for (json, expected) in [
            ("1.0e2", "1.0e2\n"),
            ("{}", "{}\n"),
            ("[ ]", "[]\n"),
            (r#""a \" b""#, "\"a \\\" b\"\n"),
            (
                r#"{"b":1.00, "a":[{}, [] ,"x:{,y"],"c":{"d":null}}"#,
                "{\n  \"b\": 1.00,\n  \"a\": [\n    {},\n    [],\n    \"x:{,y\"\n  ],\n  \"c\": {\n    \"d\": null\n  }\n}\n",
            ),
            // A string that ends like something that was opened.
            (r#"["[ "]"#, "[\n  \"[ \"\n]\n"),
        ] {
            assert_eq!(text(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn anything_else_is_dumped() {
        let expected = "00000000  00 ff 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e  |..ABCDEFGHIJKLMN|\n\
                        00000010  1b                                               |.|\n";
        assert_eq!(text(b"\x00\xffABCDEFGHIJKLMN\x1b"), expected);
        let large = text(&vec![0; DUMPED + 3]);
        assert!(large.ends_with("|................|\nand 3 bytes more (--body writes all of them)\n"));
    }

    #[test]
    fn bodies_are_named() {
        for (body, expected) in [
            (None, "null (a tombstone)"),
            (Some(&b""[..]), "empty"),
            (Some(b"{}"), "2 bytes, JSON"),
            (Some(b"x"), "1 byte, text"),
            (Some(b"\xff\x00"), "2 bytes"),
        ] {
            assert_eq!(kind(body), expected);
        }
    }
}

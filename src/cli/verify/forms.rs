//! What becomes of a body on its way through programs that mean well: the same JSON written anew, line ends turned,
//! a newline more or less.
//!
//! Pure. Knows nothing of signatures: it makes the forms one by one and asks whether this is it.

use std::borrow::Cow;

use serde::de::IgnoredAny;

const BOM: &str = "\u{feff}";

/// How JSON is laid out; what each is known from.
const LAYOUTS: [(Layout, &str); 5] = [
    (Layout::Compact, "compact"),
    (Layout::Spaced, "with a space after each comma and colon (Python's json.dumps)"),
    (Layout::Pretty("  "), "indented by 2 spaces"),
    (Layout::Pretty("    "), "indented by 4 spaces"),
    (Layout::Pretty("\t"), "indented by tabs"),
];

/// How its strings are written.
const STRINGS: [(Strings, &str); 5] = [
    (Strings::Kept, ""),
    (Strings::Plain, "no character escaped that need not be"),
    (Strings::Ascii, "all but ASCII escaped (Python's json.dumps)"),
    (Strings::Slashes, "slashes and all but ASCII escaped (PHP's json_encode)"),
    (Strings::Html, "< > & escaped (Go's json.Marshal)"),
];

/// What may follow.
const ENDS: [(&str, &str); 3] = [("", ""), ("\n", "a newline at its end"), ("\r\n", "CR LF at its end")];

#[derive(Debug, Clone, Copy)]
enum Layout {
    Compact,
    Spaced,
    Pretty(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum Strings {
    Kept,
    Plain,
    Ascii,
    Slashes,
    Html,
}

/// A form of a body that it is not in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// What it is like.
    pub(super) name: String,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// The first form of the body that fits; the likeliest are asked about first.
pub(super) fn find(body: &[u8], mut fits: impl FnMut(&[u8]) -> bool) -> Option<Form> {
    let text = std::str::from_utf8(body).ok()?;
    let bare = text.strip_prefix(BOM).unwrap_or(text);
    let mut ask = |written: Cow<'_, str>, name: &dyn Fn() -> String| {
        let mut bytes = written.into_owned().into_bytes();
        let length = bytes.len();
        ENDS.iter().find_map(|(end, called)| {
            bytes.truncate(length);
            bytes.extend_from_slice(end.as_bytes());
            fits(&bytes).then(|| Form { name: joined(&[&name(), called]), bytes: bytes.clone() })
        })
    };
    let trimmed = bare.trim_end_matches(['\r', '\n']);
    let json = serde_json::from_str::<IgnoredAny>(bare).is_ok();
    let subject = if json { "the same JSON" } else { "the same text" };
    let same = || {
        let bom = if bare.len() < text.len() { "without its byte order mark" } else { "" };
        let end = if trimmed.len() < bare.len() { "without the line end it has now" } else { "" };
        joined(&[subject, bom, end])
    };
    let lines = |end: &'static str| move || joined(&[subject, &format!("its lines ended by {end}")]);
    let unix = bare.replace("\r\n", "\n");
    ask(trimmed.into(), &same)
        .or_else(|| ask(bare.into(), &same))
        .or_else(|| ask(unix.trim_end_matches('\n').into(), &lines("LF")))
        .or_else(|| ask(unix.trim_end_matches('\n').replace('\n', "\r\n").into(), &lines("CR LF")))
        .or_else(|| {
            let writings =
                STRINGS.iter().flat_map(|strings| LAYOUTS.iter().map(move |layout| (layout, strings)));
            json.then_some(writings)?.find_map(|((layout, laid_out), (strings, written))| {
                ask(rewrite(bare, *layout, *strings).into(), &|| joined(&[subject, laid_out, written]))
            })
        })
}

fn joined(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// The same JSON in another form: members in their order, numbers as they are. `json` must be JSON.
fn rewrite(json: &str, layout: Layout, strings: Strings) -> String {
    let (mut out, mut depth, mut rest) = (String::with_capacity(json.len()), 0, json);
    let new_line = |out: &mut String, depth: usize| {
        if let Layout::Pretty(indent) = layout {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let Some(first) = rest.chars().next() else { return out };
        let length = if first == '"' { string_length(rest) } else { first.len_utf8() };
        let (token, behind) = rest.split_at(length);
        rest = behind;
        match first {
            '"' => out.push_str(&string(token, strings)),
            '{' | '[' => {
                out.push(first);
                depth += 1;
                let next = rest.trim_start_matches([' ', '\t', '\n', '\r']);
                if !next.starts_with(['}', ']']) {
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                if !out.ends_with(['{', '[']) {
                    new_line(&mut out, depth);
                }
                out.push(first);
            }
            ',' => {
                out.push(',');
                match layout {
                    Layout::Compact => {}
                    Layout::Spaced => out.push(' '),
                    Layout::Pretty(_) => new_line(&mut out, depth),
                }
            }
            ':' => out.push_str(if matches!(layout, Layout::Compact) { ":" } else { ": " }),
            other => out.push(other),
        }
    }
}

/// The length of the string literal that `json` begins with, quotes included.
fn string_length(json: &str) -> usize {
    let mut escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

fn string(token: &str, strings: Strings) -> Cow<'_, str> {
    let plain = || {
        // A lone surrogate is no text; such a string stays as it is.
        let text: String = serde_json::from_str(token).ok()?;
        serde_json::to_string(&text).ok()
    };
    let kept = || token.to_owned();
    match strings {
        Strings::Kept => token.into(),
        Strings::Plain => plain().unwrap_or_else(kept).into(),
        Strings::Ascii => escaped(&plain().unwrap_or_else(kept), |c| !c.is_ascii()).into(),
        Strings::Slashes => {
            escaped(&plain().unwrap_or_else(kept), |c| !c.is_ascii()).replace('/', "\\/").into()
        }
        Strings::Html => {
            let special = |c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
            escaped(&plain().unwrap_or_else(kept), special).into()
        }
    }
}

/// `\uXXXX` for some characters, by UTF-16 as JSON has it.
fn escaped(text: &str, special: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if special(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_anew_with_nothing_else_changed() {
        let json =
            " { \"b\" :1.50,\"a\": [ ],\"n\":[1e3 , {\"x\":\"\\\\\"} ,{ }],\"s\":\"a\\\"{,:}\\u00e9/<\"}\n";
        let rows = [
            (Layout::Compact, r#"{"b":1.50,"a":[],"n":[1e3,{"x":"\\"},{}],"s":"a\"{,:}\u00e9/<"}"#),
            (Layout::Spaced, r#"{"b": 1.50, "a": [], "n": [1e3, {"x": "\\"}, {}], "s": "a\"{,:}\u00e9/<"}"#),
            (
                Layout::Pretty("\t"),
                "{\n\t\"b\": 1.50,\n\t\"a\": [],\n\t\"n\": [\n\t\t1e3,\n\t\t{\n\t\t\t\"x\": \"\\\\\"\n\t\t},\n\t\t{}\n\t],\n\t\"s\": \"a\\\"{,:}\\u00e9/<\"\n}",
            ),
        ];
        for (layout, expected) in rows {
            assert_eq!(rewrite(json, layout, Strings::Kept), expected);
            assert_eq!(rewrite(expected, layout, Strings::Kept), expected);
        }
    }

    #[test]
    fn strings_are_written_as_other_languages_do() {
        let rows = [
            (Strings::Kept, r#""\u00e9\/<&>😀""#),
            (Strings::Plain, r#""é/<&>😀""#),
            (Strings::Ascii, r#""\u00e9/<&>\ud83d\ude00""#),
            (Strings::Slashes, r#""\u00e9\/<&>\ud83d\ude00""#),
            (Strings::Html, r#""é/\u003c\u0026\u003e😀""#),
        ];
        for (strings, expected) in rows {
            assert_eq!(string(r#""\u00e9\/<&>😀""#, strings), expected);
        }
        assert_eq!(string(r#""\ud83d""#, Strings::Plain), r#""\ud83d""#);
    }

    #[test]
    fn forms_are_found_by_their_bytes_and_named() {
        let compact = r#"{"a":1,"b":[true]}"#;
        let rows = [
            ("{\n  \"a\": 1,\n  \"b\": [\n    true\n  ]\n}", compact, "the same JSON, compact"),
            (
                compact,
                "{\n    \"a\": 1,\n    \"b\": [\n        true\n    ]\n}\n",
                "the same JSON, indented by 4 spaces, a newline at its end",
            ),
            (compact, "{\"a\":1,\"b\":[true]}\n", "the same JSON, a newline at its end"),
            ("{\"a\":1,\"b\":[true]}\n", compact, "the same JSON, without the line end it has now"),
            (
                "{\"a\":1,\"b\":[true]}\n",
                "{\"a\":1,\"b\":[true]}\r\n",
                "the same JSON, without the line end it has now, CR LF at its end",
            ),
            ("\u{feff}{}", "{}", "the same JSON, without its byte order mark"),
            ("one\r\ntwo\r\n", "one\ntwo\n", "the same text, its lines ended by LF, a newline at its end"),
            ("one\ntwo", "one\r\ntwo", "the same text, its lines ended by CR LF"),
            (
                "{\"é\": 1}",
                "{\"\\u00e9\":1}",
                "the same JSON, compact, all but ASCII escaped (Python's json.dumps)",
            ),
        ];
        for (given, signed, name) in rows {
            let form = find(given.as_bytes(), |bytes| bytes == signed.as_bytes());
            assert_eq!(form, Some(Form { name: name.to_owned(), bytes: signed.into() }), "{given:?}");
        }
        for given in [&b"{\"a\":2}"[..], b"", b"\xff", b"not json", b"{\"a\":"] {
            assert_eq!(find(given, |bytes| bytes == compact.as_bytes()), None);
        }
    }
}

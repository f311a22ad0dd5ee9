//! The command that repeats a letter's request by hand: `arauto sign` makes the signature, `curl` sends it. No secret is
//! in it; what the configuration keeps secret is named as a variable of the shell.

use crate::{
    config::settings::Endpoint,
    letters::Letter,
    pipeline::request::{Illegal, Template},
};

/// Bodies up to this many bytes stand in the command itself.
const SHORT: usize = 2 << 10;

/// The command, over several lines, for a letter at `partition:offset` of the dead-letter topic.
pub(super) fn command(letter: &Letter, endpoint: &Endpoint) -> Result<String, Illegal> {
    let event = &letter.event;
    let headers = Template::new(endpoint)?.headers(event, letter.attempts().max(1));
    let body = event.value.as_deref().unwrap_or_default();
    let short = std::str::from_utf8(body).ok().filter(|text| text.len() <= SHORT && !text.contains('\0'));
    let file = format!("letter-{}-{}", letter.record.partition, letter.record.offset);
    let mut command = String::new();
    let (signed, sent) = match short {
        Some(text) => (format!("--body {}", quoted(text)), quoted(text)),
        None => {
            let at = format!("{}:{}", letter.record.partition, letter.record.offset);
            command.push_str(&format!("arauto dlq show {at} --body > {file}\n"));
            (file.clone(), format!("@{file}"))
        }
    };
    let id = letter.id().unwrap_or_default();
    command.push_str(&format!("arauto sign {signed} --endpoint {} --id {id} |\n", endpoint.id));
    command.push_str(&format!("  curl -i -X POST {} \\\n    -H @- \\\n", quoted(endpoint.url.as_str())));
    for (name, value) in &headers {
        let header = match std::str::from_utf8(value.as_bytes()) {
            Ok(_) if value.is_sensitive() => format!("\"{name}: ${}\"", variable(name.as_str())),
            Ok(text) => quoted(&format!("{name}: {text}")),
            // Not to be had in a command line; the receiver hardly needs it.
            Err(_) => continue,
        };
        command.push_str(&format!("    -H {header} \\\n"));
    }
    // A body that begins with @ would be taken for the name of a file.
    let flag = if short.is_some() { "--data-raw" } else { "--data-binary" };
    command.push_str(&format!("    {flag} {sent}\n"));
    Ok(command)
}

/// One word of the shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A name for a variable that holds a header's value.
fn variable(header: &str) -> String {
    let upper = header.to_ascii_uppercase();
    upper.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words() {
        for (text, expected) in [("a", "'a'"), ("it's $HOME", r"'it'\''s $HOME'"), ("", "''")] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(variable("x-api-key"), "X_API_KEY");
    }
}

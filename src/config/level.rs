//! Filters that say which levels of which modules are logged, checked more strictly than their syntax is.
//!
//! Pure. An error does not quote the text, which may come from a reference.

use tracing_subscriber::EnvFilter;

use super::read::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why a text is no filter, as what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It cannot be read.
    #[error("write a filter such as \"info\" or \"arauto=debug,rdkafka=warn\"")]
    Form,
    /// It has a word that is no level.
    #[error("write a level (error, warn, info, debug, trace) or module=level")]
    Word,
    /// The same, and this level is probably meant.
    #[error("did you mean \"{0}\"?")]
    Near(&'static str),
}

/// Reads a filter. Its syntax takes an unknown word for a module's name and then logs nothing else: "inof" would be
/// silence.
pub fn parse(text: &str) -> Result<EnvFilter, Wrong> {
    let is_odd = |part: &&str| {
        let part = part.trim();
        !part.contains(['=', '[']) && !LEVELS.contains(&&*part.to_ascii_lowercase())
    };
    let filter = EnvFilter::builder().parse(text).map_err(|_| Wrong::Form)?;
    // Commas between braces separate fields.
    let odd = text.split(',').find(is_odd).filter(|_| !text.contains('{'));
    match odd {
        Some(word) => Err(nearest(word.trim(), LEVELS.into_iter()).map_or(Wrong::Word, Wrong::Near)),
        None => Ok(filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_silence_is_refused() {
        for (text, expected) in [
            ("info", None),
            ("WARN", None),
            ("arauto=debug,rdkafka=warn", None),
            ("info,arauto::pipeline=trace", None),
            ("info, arauto::pipeline=trace", Some(Wrong::Form)),
            ("inof", Some(Wrong::Near("info"))),
            ("arauto", Some(Wrong::Word)),
            ("", Some(Wrong::Word)),
            ("info,,", Some(Wrong::Word)),
            ("arauto=loud", Some(Wrong::Form)),
            ("arauto=debug,trac", Some(Wrong::Near("trace"))),
        ] {
            assert_eq!(parse(text).err(), expected, "{text:?}");
        }
    }
}

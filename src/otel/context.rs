//! Where a span stands: W3C Trace Context, <https://www.w3.org/TR/trace-context/>. Pure.
//!
//! Read to the letter: what the text calls invalid is no context. (The parser of the OpenTelemetry library is more
//! lenient, it takes ids that are too short.)

use std::fmt;

use data_encoding::HEXLOWER;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// `version "-" trace-id "-" parent-id "-" trace-flags`, in characters.
const LENGTH: usize = 55;

/// A span, named for whoever continues its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace, not zero.
    pub trace: u128,
    /// The span in it, not zero.
    pub span: u64,
    /// Is the trace recorded?
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent`.
    pub fn parse(text: &str) -> Option<Self> {
        let (fixed, rest) = text.as_bytes().split_at_checked(LENGTH)?;
        let separated = [2, 35, 52].iter().all(|&at| fixed[at] == b'-');
        let version = hex(&fixed[..2])?;
        // A later version may have more to say, behind one more separator.
        let ends = rest.is_empty() || (version > 0 && rest[0] == b'-');
        if !separated || !ends || version == 0xff {
            return None;
        }
        let trace = hex(&fixed[3..35]).filter(|id| *id != 0)?;
        let span = hex(&fixed[36..52]).filter(|id| *id != 0)?;
        let flags = hex(&fixed[53..])?;
        let span = u64::try_from(span).expect("sixteen digits are eight bytes");
        Some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn with_span(self, span: u64) -> Self {
        Self { span, ..self }
    }

    /// The same in the library's form.
    pub(super) fn exported(self, is_remote: bool, state: TraceState) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        SpanContext::new(TraceId::from(self.trace), SpanId::from(self.span), flags, is_remote, state)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every attempt carries one, recorded or not: the formatter of numbers is several times slower than a table.
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        HEXLOWER.encode_mut(&self.trace.to_be_bytes(), &mut text[3..35]);
        HEXLOWER.encode_mut(&self.span.to_be_bytes(), &mut text[36..52]);
        text[LENGTH - 1] = if self.sampled { b'1' } else { b'0' };
        f.write_str(std::str::from_utf8(&text).expect("digits and - are ASCII"))
    }
}

/// Lower-case digits only; the caller gives no more than fit.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    fn check(text: &str, sampled: Option<bool>) {
        let expected = sampled.map(|sampled| Context { trace: TRACE, span: SPAN, sampled });
        assert_eq!(Context::parse(text), expected, "{text:?}");
    }

    #[test]
    fn what_the_text_allows() {
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false));
        // Flags we do not know say nothing about sampling.
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", Some(false));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", Some(true));
        // Later versions begin like this one, and may go on.
        check("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true));
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be", Some(true));
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-", Some(false));
    }

    #[test]
    fn what_the_text_forbids() {
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b.-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0+",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            // Of version 00 there is no more to come.
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-not-be",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future-will-be",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bé-01",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for sampled in [true, false] {
            let context = Context { trace: TRACE, span: SPAN, sampled };
            assert_eq!(Context::parse(&context.to_string()), Some(context));
        }
        let low = Context { trace: 1, span: 2, sampled: true };
        assert_eq!(low.to_string(), "00-00000000000000000000000000000001-0000000000000002-01");
    }
}

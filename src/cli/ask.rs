//! Asks before something is done that cannot be taken back.

use std::io::{self, BufRead, IsTerminal, Write};

use super::Usage;

/// Shall it be done? `yes` has answered already, as `--yes` does; without a terminal nobody can.
pub(super) fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let help = "nobody can be asked without a terminal; add --yes to go ahead";
        return Err(Usage(format!("{question} {help}")).into());
    }
    ask(question, &mut io::stdin().lock(), &mut io::stderr().lock())
}

/// Anything but a yes is a no, the end of the input too.
fn ask(question: &str, answers: &mut dyn BufRead, out: &mut dyn Write) -> anyhow::Result<bool> {
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    if answers.read_line(&mut answer)? == 0 {
        writeln!(out)?;
    }
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, expected) in [
            ("y\n", true),
            ("YES\n", true),
            (" yes \r\n", true),
            ("n\n", false),
            ("\n", false),
            ("yup\n", false),
        ] {
            let mut out = Vec::new();
            let answered = ask("Purge 3 letters?", &mut answer.as_bytes(), &mut out).unwrap();
            assert_eq!(answered, expected, "{answer:?}");
            assert_eq!(String::from_utf8(out).unwrap(), "Purge 3 letters? [y/N] ");
        }
        let mut out = Vec::new();
        assert!(!ask("Sure?", &mut &b""[..], &mut out).unwrap());
        assert_eq!(out, b"Sure? [y/N] \n");
    }

    #[test]
    fn who_has_said_yes_is_not_asked() {
        assert!(confirm("Purge?", true).unwrap());
    }
}

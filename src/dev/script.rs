//! What a receiver answers, request by request, written in one line: `200,503:retry-after=5:times=3,timeout,repeat`.
//!
//! Pure: a small grammar and the step that a request has its turn at.
//!
//! ```text
//! SCRIPT = STEP *( "," STEP ) [ ",repeat" ]
//! STEP   = ( STATUS | "timeout" ) *( ":" OPTION )
//! STATUS = 200 to 599
//! OPTION = "retry-after=" SECONDS | "delay=" DURATION | "times=" COUNT
//! ```
//!
//! One step answers one request, or as many as `times` says. After the last step it goes on for ever, or, with
//! `repeat`, the first follows. `timeout` never answers.

use std::{str::FromStr, time::Duration};

use crate::config::value::parse_duration;

/// More than anybody writes; it bounds what a step may count to.
const MOST: u64 = 1_000_000_000;

/// A script, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// Each with how many requests it answers; there is at least one.
    steps: Vec<(Step, u64)>,
    repeat: bool,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The status; `None`: never answered.
    pub status: Option<u16>,
    /// Time before it.
    pub delay: Duration,
    /// Headers of it.
    pub headers: Vec<(String, String)>,
}

/// What is wrong with a script, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step} ({text:?}) {wrong}")]
pub struct Wrong {
    step: usize,
    text: String,
    wrong: &'static str,
}

impl Steps {
    /// The step for the `number`th request, from 0.
    pub fn at(&self, number: u64) -> &Step {
        let round: u64 = self.steps.iter().map(|(_, times)| times).sum();
        let mut left = if self.repeat { number % round } else { number };
        for (step, times) in &self.steps {
            if left < *times {
                return step;
            }
            left -= times;
        }
        &self.steps[self.steps.len() - 1].0
    }
}

impl FromStr for Steps {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let mut words: Vec<&str> = text.split(',').map(str::trim).collect();
        let repeat = words.len() > 1 && words.last() == Some(&"repeat");
        if repeat {
            words.pop();
        }
        let read = |(number, text): (usize, &&str)| {
            step(text).map_err(|wrong| Wrong { step: number, text: (*text).to_owned(), wrong })
        };
        let steps = (1..).zip(&words).map(read).collect::<Result<_, _>>()?;
        Ok(Self { steps, repeat })
    }
}

fn step(text: &str) -> Result<(Step, u64), &'static str> {
    let mut parts = text.split(':');
    let status = match parts.next().unwrap_or_default() {
        "timeout" => None,
        "repeat" => return Err("can only be the last word, behind a step"),
        status => Some(
            status
                .parse()
                .ok()
                .filter(|status| (200..=599).contains(status))
                .ok_or("is neither a status from 200 to 599 nor timeout")?,
        ),
    };
    let (mut step, mut times) = (Step { status, delay: Duration::ZERO, headers: Vec::new() }, 1);
    for option in parts {
        match option.split_once('=') {
            Some(("retry-after", seconds)) if seconds.parse::<u32>().is_ok() => {
                step.headers.push(("retry-after".to_owned(), seconds.to_owned()));
            }
            Some(("retry-after", _)) => return Err("has a retry-after that is not in seconds"),
            Some(("delay", text)) => {
                step.delay = parse_duration(text).map_err(|_| "has a delay that is none, such as 250ms")?;
            }
            Some(("times", text)) => {
                let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
                times = count.ok_or("has a times that is no number from 1")?;
            }
            Some(_) | None => return Err("has an option that is none of retry-after=, delay= and times="),
        }
    }
    Ok((step, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer as text, such as `503+5s` for one after five seconds, `-` for none.
    fn check(script: &str, expected: &[&str]) {
        let steps: Steps = script.parse().unwrap();
        let told = |number| {
            let Step { status, delay, headers } = steps.at(number);
            let status = status.map_or("-".to_owned(), |status| status.to_string());
            let delay = if delay.is_zero() { String::new() } else { format!("+{delay:?}") };
            let headers: Vec<String> =
                headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{status}{delay}{}", headers.concat())
        };
        let got: Vec<String> = (0..).take(expected.len()).map(told).collect();
        assert_eq!(got, expected, "{script}");
    }

    #[test]
    fn steps_in_turn_then_the_last_for_ever_or_from_the_start_again() {
        check("204", &["204", "204"]);
        check("200,200,503", &["200", "200", "503", "503", "503"]);
        check("200, 503 ,repeat", &["200", "503", "200", "503", "200"]);
        check("503:times=3,200", &["503", "503", "503", "200", "200"]);
        check("503:times=2,200,repeat", &["503", "503", "200", "503", "503", "200"]);
        check("200,repeat", &["200", "200"]);
        let steps: Steps = "500:times=1000000000,200".parse().unwrap();
        assert_eq!((steps.at(999_999_999).status, steps.at(u64::MAX).status), (Some(500), Some(200)));
    }

    #[test]
    fn what_a_step_can_be() {
        check("503:retry-after=5,timeout,200:delay=250ms", &["503 retry-after=5", "-", "200+250ms"]);
        check(
            "429:delay=1s:retry-after=0:times=2,timeout:times=2,599",
            &["429+1s retry-after=0", "429+1s retry-after=0", "-", "-", "599"],
        );
    }

    #[test]
    fn what_is_wrong_is_said_of_the_step() {
        for (script, expected) in [
            ("", "step 1 (\"\") is neither"),
            ("200,", "step 2 (\"\") is neither"),
            ("199", "is neither"),
            ("600", "is neither"),
            ("OK", "is neither"),
            ("repeat", "can only be the last word"),
            ("repeat,200", "step 1 (\"repeat\") can only be"),
            ("200,503:retry-after=soon", "step 2 (\"503:retry-after=soon\") has a retry-after"),
            ("200:retry-after=-1", "has a retry-after"),
            ("200:delay=5", "has a delay"),
            ("200:times=0", "has a times"),
            ("200:often", "has an option"),
            ("200:after=5", "has an option"),
        ] {
            let wrong = script.parse::<Steps>().unwrap_err().to_string();
            assert!(wrong.contains(expected), "{script:?}: {wrong}");
        }
    }
}

//! Reading libtest's output: what to show, and how many passed, failed and were skipped.

use std::fmt;

/// The sums over all test binaries.
#[derive(Debug, Default)]
pub struct Tally {
    reported_passed: usize,
    pub failed: usize,
    ignored: usize,
    /// Tests that returned early; to libtest they passed.
    gave_up: usize,
    /// What those printed, each text once.
    pub skipped_lines: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.reported_passed.saturating_sub(self.gave_up);
        write!(f, "{passed} passed, {} failed, {} skipped", self.failed, self.ignored + self.gave_up)
    }
}

impl Tally {
    /// A reader for the output of one command.
    pub fn reader(&mut self) -> Reader<'_> {
        Reader { tally: self, in_successes: false, counted: false }
    }
}

/// Follows one command's output line by line.
pub struct Reader<'a> {
    tally: &'a mut Tally,
    /// Inside the section where `--show-output` repeats what passing tests printed.
    in_successes: bool,
    /// Whether the test whose output is being read has been counted as skipped.
    counted: bool,
}

impl Reader<'_> {
    /// Takes one line; says whether it is to be shown.
    pub fn take(&mut self, line: &str) -> bool {
        if line.starts_with("test result: ") {
            self.in_successes = false;
            self.add(line);
            return true;
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if self.in_successes && line.starts_with("---- ") {
            self.counted = false;
        }
        if line.starts_with("SKIPPED ") {
            // A test may give several reasons; it is still one test.
            if !(self.in_successes && self.counted) {
                self.tally.gave_up += 1;
                self.counted = true;
            }
            if !self.tally.skipped_lines.iter().any(|known| known == line) {
                self.tally.skipped_lines.push(line.to_owned());
            }
            return false;
        }
        // What passing tests printed was asked for only to find the lines above.
        !self.in_successes
    }

    fn add(&mut self, line: &str) {
        let mut before = "";
        for word in line.split([' ', ';']).filter(|word| !word.is_empty()) {
            let n = before.parse().unwrap_or(0);
            match word {
                "passed" => self.tally.reported_passed += n,
                "failed" => self.tally.failed += n,
                "ignored" => self.tally.ignored += n,
                _ => {}
            }
            before = word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Tally, Vec<String>) {
        let mut tally = Tally::default();
        let mut reader = tally.reader();
        let shown = output.lines().filter(|line| reader.take(line)).map(str::to_owned).collect();
        (tally, shown)
    }

    #[test]
    fn a_test_that_gave_up_is_skipped_and_not_passed() {
        let (tally, shown) = read(
            "running 3 tests\n\
             test a ... ok\n\
             \n\
             successes:\n\
             \n\
             ---- a stdout ----\n\
             SKIPPED a: not root\n\
             SKIPPED a: no nginx\n\
             \n\
             ---- b stdout ----\n\
             chatter\n\
             \n\
             successes:\n    a\n    b\n\
             \n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 2 skipped");
        assert_eq!(tally.skipped_lines, ["SKIPPED a: not root", "SKIPPED a: no nginx"]);
        assert!(!shown.iter().any(|line| line == "chatter"));
        assert!(shown.last().unwrap().starts_with("test result: ok"));
    }

    #[test]
    fn what_failing_tests_printed_is_shown() {
        let (tally, shown) = read(
            "successes:\n\n---- a stdout ----\nchatter\n\nfailures:\n\n---- b stdout ----\n\
             panicked here\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured",
        );
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 0 skipped");
        assert!(shown.iter().any(|line| line == "panicked here"));
        assert!(!shown.iter().any(|line| line == "chatter"));
    }

    #[test]
    fn several_binaries_add_up() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.reader().take("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out");
        }
        assert_eq!(tally.to_string(), "10 passed, 0 failed, 0 skipped");
    }
}

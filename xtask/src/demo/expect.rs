//! What a step expects, what was seen, and whether they agree.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    Server,
    Kernel,
}

/// What came of a request.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub by: Answerer,
    /// Lines in the server's request log before and after.
    pub before: usize,
    pub after: usize,
}

/// What should come of it.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub statuses: &'static [u16],
    pub by: Answerer,
}

impl Expected {
    /// Answered by the server, which therefore read the request.
    pub const fn from_server(statuses: &'static [u16]) -> Self {
        Self { statuses, by: Answerer::Server }
    }

    /// Answered by the kernel, so that the server read nothing.
    pub const FROM_KERNEL: Self = Self { statuses: &[401], by: Answerer::Kernel };

    /// How many requests the server should have read.
    fn growth(self) -> usize {
        match self.by {
            Answerer::Server => 1,
            Answerer::Kernel => 0,
        }
    }

    pub fn holds(self, seen: &Seen) -> bool {
        self.statuses.contains(&seen.status)
            && self.by == seen.by
            && seen.before.checked_add(self.growth()) == Some(seen.after)
    }
}

impl fmt::Display for Answerer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the server",
            Self::Kernel => "the kernel",
        })
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses: Vec<String> = self.statuses.iter().map(u16::to_string).collect();
        let log = match self.by {
            Answerer::Server => "one more line in its request log",
            Answerer::Kernel => "nothing in the server's request log",
        };
        write!(f, "{} from {}, {log}", statuses.join(" or "), self.by)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}, request log {} → {}", self.status, self.by, self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seen(status: u16, by: Answerer, before: usize, after: usize) -> Seen {
        Seen { status, by, before, after }
    }

    #[test]
    fn an_answer_of_the_server_is_in_its_log_once() {
        let expected = Expected::from_server(&[401, 403]);
        assert!(expected.holds(&seen(403, Answerer::Server, 3, 4)));
        assert!(!expected.holds(&seen(403, Answerer::Server, 3, 3)));
        assert!(!expected.holds(&seen(403, Answerer::Server, 3, 5)));
        assert!(!expected.holds(&seen(200, Answerer::Server, 3, 4)));
        assert!(!expected.holds(&seen(403, Answerer::Kernel, 3, 4)));
    }

    #[test]
    fn an_answer_of_the_kernel_leaves_the_log_alone() {
        assert!(Expected::FROM_KERNEL.holds(&seen(401, Answerer::Kernel, 4, 4)));
        assert!(!Expected::FROM_KERNEL.holds(&seen(401, Answerer::Kernel, 4, 5)));
        assert!(!Expected::FROM_KERNEL.holds(&seen(401, Answerer::Server, 4, 4)));
        assert!(!Expected::FROM_KERNEL.holds(&seen(200, Answerer::Kernel, 4, 4)));
    }

    #[test]
    fn both_read_as_sentences() {
        assert_eq!(
            Expected::from_server(&[401, 403]).to_string(),
            "401 or 403 from the server, one more line in its request log"
        );
        assert_eq!(seen(401, Answerer::Kernel, 4, 4).to_string(), "401 from the kernel, request log 4 → 4");
    }
}

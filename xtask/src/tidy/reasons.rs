//! Every reason a user can see is explained in the documentation.

use super::{Finding, Source};

const LIST: &str = "common/src/reason.rs";
const PAGE: &str = "docs/reasons.md";

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(list) = sources.iter().find(|source| source.path == LIST) else {
        return Vec::new();
    };
    let page = sources.iter().find(|source| source.path == PAGE).map_or("", |page| &page.text);
    codes(&list.text)
        .into_iter()
        .filter(|(_, code)| !page.contains(&format!("`{code}`")))
        .map(|(line, code)| Finding::new(list, line, format!("`{code}` is not explained in {PAGE}")))
        .collect()
}

/// The codes of `enum Reason`: `(line, code)`.
fn codes(text: &str) -> Vec<(usize, &str)> {
    text.lines()
        .enumerate()
        .skip_while(|(_, line)| !line.contains("enum Reason"))
        .take_while(|(_, line)| line.trim() != "}")
        .filter_map(|(at, line)| {
            let code = line.split_once("=> \"")?.1.split('"').next()?;
            Some((at + 1, code))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    const ENUM: &str = "numbered! {\n pub enum Reason {\n  /// A.\n  A = 0 => \"allowed\",\n  B = 1 => \"revoked\",\n }\n}\n\
                        enum Outcome { C = 0 => \"c\",\n}\n";

    #[test]
    fn an_unexplained_reason_is_found() {
        let found = check(&[source(LIST, ENUM), source(PAGE, "| `allowed` | fine |")]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].line, found[0].what.as_str()),
            (5, "`revoked` is not explained in docs/reasons.md")
        );
        assert!(check(&[source(LIST, ENUM), source(PAGE, "`allowed` `revoked`")]).is_empty());
    }

    #[test]
    fn without_the_page_every_reason_is_unexplained() {
        assert_eq!(check(&[source(LIST, ENUM)]).len(), 2);
    }
}

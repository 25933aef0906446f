//! Columns for people.

use crate::clock::WallTime;

/// Lays rows out under a head, each column as wide as its widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push('\n');
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Milliseconds since 1970 as RFC 3339, to the second; "never" before, "for ever" after the year 9999.
pub fn time(ms: i64) -> String {
    if ms < 0 { "never".to_owned() } else { WallTime(ms).shown() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["1".into(), "long cell".into(), "x".into()]];
        assert_eq!(table(&["ID", "B", "C"], &rows), "ID  B          C\n1   long cell  x");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(1_732_412_345_123), "2024-11-24T01:39:05Z");
        assert_eq!((time(-1), time(i64::MAX)), ("never".to_owned(), "for ever".to_owned()));
    }
}

//! First and last use, in hours since 1970, and how two hosts' knowledge of it is put together.

/// First and last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first hour.
    pub first: u32,
    /// The last one.
    pub last: u32,
}

impl Span {
    /// One hour's use.
    pub const fn at(hour: u32) -> Self {
        Self { first: hour, last: hour }
    }

    /// What two know together. In whatever order, and however often the same is told, it comes to one.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Since when two hosts together know every use: before the later of them began, that one may have missed some.
    pub fn observed(a: u32, b: u32) -> u32 {
        a.max(b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span() -> impl Strategy<Value = Span> {
        (0..1000_u32, 0..1000_u32).prop_map(|(a, b)| Span { first: a.min(b), last: a.max(b) })
    }

    proptest! {
        #[test]
        fn merging_is_the_same_in_any_order_and_any_number(a in span(), b in span(), c in span()) {
            prop_assert_eq!(a.merged(b), b.merged(a));
            prop_assert_eq!(a.merged(b).merged(c), a.merged(b.merged(c)));
            prop_assert_eq!(a.merged(a), a);
            prop_assert_eq!(a.merged(b).merged(b), a.merged(b));
        }

        /// Uses split over hosts in any way, merged, are as if one host had seen all.
        #[test]
        fn hosts_together_know_what_one_would(uses in prop::collection::vec((0..1000_u32, any::<bool>()), 1..50)) {
            let of = |host: Option<bool>| {
                let mine = uses.iter().filter(|(_, at)| host.is_none_or(|h| h == *at));
                mine.map(|(hour, _)| Span::at(*hour)).reduce(Span::merged)
            };
            let both = match (of(Some(true)), of(Some(false))) {
                (Some(a), Some(b)) => Some(a.merged(b)),
                (a, b) => a.or(b),
            };
            prop_assert_eq!(both, of(None));
        }
    }
}

//! Declares sections of the configuration with documentation and default in one place.

/// One key as the reference page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The key.
    pub key: &'static str,
    /// What it means.
    pub doc: String,
    /// Its default, as TOML; empty where it must be given.
    pub default: String,
}

/// A table of the configuration.
pub trait Section {
    /// Its name in the file.
    const TABLE: &'static str;
    /// What it is for.
    const DOC: &'static str;
    /// Its keys.
    fn fields() -> Vec<Field>;
}

/// Declares a section: each field with its documentation and default.
macro_rules! section {
    ($(#[doc = $doc:literal])+ $name:ident as $table:literal {
        $($(#[doc = $fdoc:literal])+ $field:ident: $ty:ty = $default:expr,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[doc = $fdoc])+ pub $field: $ty,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::section::Section for $name {
            const TABLE: &'static str = $table;
            const DOC: &'static str = concat!($($doc, "\n"),+);

            fn fields() -> Vec<$crate::config::section::Field> {
                let defaults = Self::default();
                vec![$($crate::config::section::Field {
                    key: stringify!($field),
                    doc: concat!($($fdoc, "\n"),+).lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned(),
                    default: $crate::config::section::as_toml(&defaults.$field),
                },)+]
            }
        }
    };
}
pub(super) use section;

/// A value as TOML would have it; empty for one that is absent.
pub fn as_toml<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value).map(|v| v.to_string()).unwrap_or_default()
}

//! Where the cold tier is: `file:///folder` or `s3://bucket/prefix`.
//!
//! *Invariants*: a URL that was read is written back as it came, but for a slash at its end.
//!
//! *Not here*: credentials and endpoints (`s3`).

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::ColdError;

/// Where the cold tier is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColdUrl {
    /// A folder.
    File(PathBuf),
    /// A bucket, and what every name in it starts with.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// Without a slash at either end; empty: the whole bucket.
        prefix: String,
    },
}

impl ColdUrl {
    /// A folder.
    pub fn folder(path: &Path) -> Self {
        Self::File(path.to_owned())
    }

    /// A place below this one.
    pub fn below(&self, name: &str) -> Self {
        match self {
            Self::File(path) => Self::File(path.join(name)),
            Self::S3 { bucket, prefix } if prefix.is_empty() => {
                Self::S3 { bucket: bucket.clone(), prefix: name.to_owned() }
            }
            Self::S3 { bucket, prefix } => {
                Self::S3 { bucket: bucket.clone(), prefix: format!("{prefix}/{name}") }
            }
        }
    }
}

impl FromStr for ColdUrl {
    type Err = ColdError;

    fn from_str(text: &str) -> Result<Self, ColdError> {
        let wrong = |why: &str| {
            let expected = "expected file:///folder or s3://bucket/prefix";
            ColdError::Settings(format!("`{text}`: {why}; {expected}"))
        };
        if let Some(path) = text.strip_prefix("file://") {
            let path = Path::new(path);
            let plain = path.is_absolute()
                && !path.components().any(|part| matches!(part, std::path::Component::ParentDir));
            return match plain {
                true => Ok(Self::File(path.components().collect())),
                false => Err(wrong("the folder is not an absolute path")),
            };
        }
        let rest = text.strip_prefix("s3://").ok_or_else(|| wrong("the scheme is not known"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let in_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if bucket.len() < 3 || bucket.len() > 63 || !bucket.bytes().all(in_bucket) {
            return Err(wrong("the bucket has no valid name"));
        }
        let prefix = prefix.trim_matches('/');
        let in_prefix = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if !prefix.bytes().all(in_prefix) || prefix.split('/').any(|part| part == "..") {
            return Err(wrong("the prefix holds more than letters, digits and - _ . /"));
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl std::fmt::Display for ColdUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_refused() {
        for good in ["file:///a/b", "s3://bucket", "s3://my-bucket/some/prefix"] {
            assert_eq!(good.parse::<ColdUrl>().unwrap().to_string(), good);
        }
        assert_eq!("s3://bucket/a/".parse::<ColdUrl>().unwrap().to_string(), "s3://bucket/a");
        for bad in [
            "",
            "/a",
            "file://a",
            "file:///a/../b",
            "s3://",
            "s3://B/x",
            "s3://abc/../x",
            "http://x",
            "s3://abc/a b",
        ] {
            assert!(bad.parse::<ColdUrl>().is_err(), "{bad}");
        }
        let below = |text: &str| text.parse::<ColdUrl>().unwrap().below("x").to_string();
        assert_eq!(below("s3://bucket"), "s3://bucket/x");
        assert_eq!(below("file:///a"), "file:///a/x");
    }
}

//! Who we are to S3, and where S3 is: the variables and the file that every AWS client reads.
//!
//! *Invariants*: variables win over the file; a secret is never shown.
//!
//! *Not here*: signing (`sign`). Roles of machines and pods (IMDS, web identity) are not asked:
//! mount their credentials as variables or as a file, which is read again when it is refused.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::ColdError;

/// Who we are.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub key_id: String,
    pub secret: String,
    pub token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.key_id)
    }
}

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where variables come from: the environment, or what a test says.
#[derive(Clone)]
pub struct Variables(Arc<Lookup>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Variables")
    }
}

impl Variables {
    /// Those of the environment.
    pub fn of_environment() -> Self {
        Self(Arc::new(|name| std::env::var(name).ok()))
    }

    /// Those that a function knows.
    pub fn of(known: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(known))
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

impl Credentials {
    /// Reads the variables, else the file.
    pub fn find(variables: &Variables) -> Result<Self, ColdError> {
        let variable = |name: &str| variables.get(name);
        if let (Some(key_id), Some(secret)) =
            (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        {
            return Ok(Self { key_id, secret, token: variable("AWS_SESSION_TOKEN") });
        }
        let path = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let home = || variable("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
        let missing = "S3 needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                       AWS_SHARED_CREDENTIALS_FILE";
        let path = path.or_else(home).ok_or_else(|| ColdError::Settings(missing.to_owned()))?;
        let text = std::fs::read_to_string(&path).map_err(|error| {
            ColdError::Settings(format!("{missing} ({}: {error})", path.display()))
        })?;
        let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        profile_of(&text, &profile).ok_or_else(|| {
            let path = path.display();
            ColdError::Settings(format!("{path} holds no key and secret of profile `{profile}`"))
        })
    }
}

fn profile_of(text: &str, profile: &str) -> Option<Credentials> {
    let (mut inside, mut key_id, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
            let value = Some(value.trim().to_owned());
            match name.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Credentials { key_id: key_id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_among_others() {
        let text = "[other]\naws_access_key_id=no\n\n[default]\naws_access_key_id = AK\n\
                    # a remark\naws_secret_access_key = s=ecret\naws_session_token=t\n[last]\n";
        let found = profile_of(text, "default").unwrap();
        assert_eq!((found.key_id.as_str(), found.secret.as_str()), ("AK", "s=ecret"));
        assert_eq!(found.token.as_deref(), Some("t"));
        assert_eq!(profile_of(text, "other"), None);
        assert!(!format!("{found:?}").contains("ecret"));
    }
}

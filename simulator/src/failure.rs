//! How a subcommand ends when it does not end well, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

#[derive(Debug)]
pub enum Failure {
    /// The arguments make no sense; nothing was tried. Exit code 2.
    Usage(String),
    /// It was tried and did not work, or the answer was not what the contract says. Exit code 1.
    Failed(String),
}

impl Failure {
    pub fn usage(why: impl fmt::Display) -> Self {
        Self::Usage(why.to_string())
    }

    pub fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

macro_rules! failed_from {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::failed(error)
            }
        }
    )*};
}

failed_from!(
    crate::car::CarError,
    crate::est::EstError,
    crate::http_client::HttpError,
    crate::identity::IdentityError,
    std::io::Error,
    cardea::domain::Malformed,
);

//! A port of the host, which kind or the container engine may choose.

use serde::{Deserialize, Serialize};

/// A port of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub enum Port {
    /// A free one, chosen by kind at the creation (0 or nothing in the config). It stays when a node restarts.
    #[default]
    Free,
    /// One chosen by the container engine (-1 in the config), each time that the node starts. For engines on
    /// another host, where kind cannot know what is free.
    Engine,
    /// This one, which is not 0.
    Fixed(u16),
}

impl TryFrom<i32> for Port {
    type Error = String;

    fn try_from(number: i32) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Free),
            -1 => Ok(Self::Engine),
            number => u16::try_from(number).map(Self::Fixed).map_err(|_| {
                format!(
                    "{number} is not a port: use 1 to 65535, 0 for a free one, -1 to leave it to the engine"
                )
            }),
        }
    }
}

impl From<Port> for i32 {
    fn from(port: Port) -> Self {
        match port {
            Port::Free => 0,
            Port::Engine => -1,
            Port::Fixed(number) => number.into(),
        }
    }
}

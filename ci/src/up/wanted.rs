//! Volumes as people ask for them: `NAME=SIZE[,rf=N][,durability=MODE][,paths=KIND]`.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::size;

/// A volume that must exist when everything is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
    /// Its copies, 1 to 3.
    pub(crate) copies: usize,
    /// When a write counts as durable; `None`: the default of `holdfast volume create`.
    pub(crate) durability: Option<String>,
    /// How hosts find the primary; `None`: the default of `holdfast volume create`.
    pub(crate) paths: Option<String>,
}

impl Wanted {
    /// What a person gets who asks for nothing.
    pub(crate) fn demo() -> Self {
        Wanted {
            name: "demo".to_owned(),
            size_bytes: size::GIB,
            copies: 1,
            durability: None,
            paths: None,
        }
    }

    /// Words for `holdfast volume create`.
    pub(crate) fn create_words(&self) -> Vec<String> {
        let mut words = vec![
            "volume".to_owned(),
            "create".to_owned(),
            self.name.clone(),
            "--size".to_owned(),
            size::exact(self.size_bytes),
        ];
        if self.copies > 1 {
            words.extend(["--rf".to_owned(), self.copies.to_string()]);
        }
        for (flag, value) in [("--durability", &self.durability), ("--paths", &self.paths)] {
            if let Some(value) = value {
                words.extend([flag.to_owned(), value.clone()]);
            }
        }
        words
    }
}

/// Reads all `--volume` flags.
pub(crate) fn read(texts: &[String]) -> Result<Vec<Wanted>, String> {
    let volumes = texts
        .iter()
        .map(|text| wanted(text))
        .collect::<Result<Vec<_>, _>>()?;
    let names: BTreeSet<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    if names.len() != volumes.len() {
        return Err("--volume names the same volume twice; give each name once".to_owned());
    }
    Ok(volumes)
}

fn wanted(text: &str) -> Result<Wanted, String> {
    let (name, rest) = text
        .split_once('=')
        .ok_or_else(|| format!("--volume '{text}' is not NAME=SIZE; write it like demo=1GiB"))?;
    check_name(name)?;
    let mut parts = rest.split(',');
    let size = parts.next().unwrap_or_default();
    let size_bytes = size::parse(size).map_err(|error| format!("--volume {name}: {error}"))?;
    if !size_bytes.is_multiple_of(4096) || size_bytes < size::MIB {
        return Err(format!(
            "--volume {name}: {size} is not a multiple of 4KiB of at least 1MiB; choose such a size"
        ));
    }
    let mut volume = Wanted {
        name: name.to_owned(),
        size_bytes,
        ..Wanted::demo()
    };
    for part in parts {
        set(&mut volume, part).map_err(|why| format!("--volume {name}: {why}"))?;
    }
    Ok(volume)
}

fn set(volume: &mut Wanted, part: &str) -> Result<(), String> {
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    match (key, value) {
        ("rf", "1" | "2" | "3") => volume.copies = value.parse().unwrap_or(1),
        ("rf", _) => return Err(format!("rf={value} is not 1, 2 or 3")),
        ("durability", "sync_all" | "sync_quorum" | "best_effort") => {
            volume.durability = Some(value.to_owned());
        }
        ("durability", _) => {
            return Err(format!(
                "durability={value} is not sync_all, sync_quorum or best_effort"
            ));
        }
        ("paths", "redirect" | "multipath") => volume.paths = Some(value.to_owned()),
        ("paths", _) => return Err(format!("paths={value} is not redirect or multipath")),
        _ => {
            return Err(format!(
                "'{part}' is not known; after the size may follow rf=N, durability=MODE, paths=KIND"
            ));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = name
        .bytes()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.');
    if !first || !rest || name.len() > 63 {
        return Err(format!(
            "'{name}' cannot name a volume; use up to 63 of a-z, 0-9, '-' and '.', beginning with a letter or digit"
        ));
    }
    Ok(())
}

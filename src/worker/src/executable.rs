//! Identifies a trainer's executable by the file's bytes: what a program reports about itself may
//! be copied.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use sweep::{Program, Trainer};

/// Identifies the program at `path`: the built-in trainer if it is the one beside this program
/// (`own`) or has equal content, otherwise a different program.
pub fn identify(path: &Path, own: Option<&Path>) -> io::Result<Trainer> {
    let same_file =
        |own: &Path| Ok::<bool, io::Error>(fs::canonicalize(own)? == fs::canonicalize(path)?);
    // a missing built-in trainer is no error for another program
    if own.is_some_and(|own| same_file(own).unwrap_or(false)) {
        return Ok(Trainer::BuiltIn);
    }
    let program = read(path)?;
    if own
        .and_then(|own| read(own).ok())
        .is_some_and(|own| own.hash == program.hash)
    {
        return Ok(Trainer::BuiltIn);
    }
    Ok(Trainer::Foreign(program.into()))
}

/// Returns an error if the file is no longer the program that the worker joined with. The built-in
/// trainer reports its build instead, which the slot compares.
pub fn check(path: &Path, trainer: &Trainer) -> Result<(), String> {
    let Trainer::Foreign(joined_with) = trainer else {
        return Ok(());
    };
    let path_shown = path.display();
    let now =
        read(path).map_err(|error| format!("cannot read the trainer `{path_shown}`: {error}"))?;
    if now == **joined_with {
        return Ok(());
    }
    Err(format!(
        "the trainer `{path_shown}` was changed since this worker started, and is another program now: restart the \
         worker, and submit the sweep again for the new program"
    ))
}

fn read(path: &Path) -> io::Result<Program> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = protocol::fleet::to_name(&name);
    Ok(Program {
        name,
        hash: hasher.finalize().to_hex()[..32].to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_bytes_and_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let own = file("orchestrator-trainer", "own");
        let (copy, mine) = (file("copy", "own"), file("mine.sh", "mine"));
        std::os::unix::fs::symlink(&own, dir.path().join("link")).unwrap();
        for built_in in [&own, &copy, &dir.path().join("link")] {
            assert_eq!(
                identify(built_in, Some(&own)).unwrap(),
                Trainer::BuiltIn,
                "{built_in:?}"
            );
        }
        let foreign = identify(&mine, Some(&own)).unwrap();
        assert!(
            foreign.to_string().starts_with("the trainer `mine.sh` ("),
            "{foreign}"
        );
        assert_ne!(
            identify(&copy, None).unwrap(),
            Trainer::BuiltIn,
            "nothing to compare with"
        );
        assert_ne!(
            identify(&file("yours.sh", "mine"), Some(&own)).unwrap(),
            foreign,
            "called by another name"
        );
        assert_eq!(check(&mine, &foreign), Ok(()));
        file("mine.sh", "changed");
        assert_ne!(identify(&mine, Some(&own)).unwrap(), foreign);
        assert!(
            check(&mine, &foreign)
                .unwrap_err()
                .contains("is another program now")
        );
        assert!(identify(&dir.path().join("absent"), Some(&own)).is_err());
    }
}

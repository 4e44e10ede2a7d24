//! The grammar of the command line, and what it does with secrets.

use super::{Access, Cli, Command, Exit, VolumeCommand};
use clap::{CommandFactory, Parser};
use std::path::PathBuf;

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("holdfast").chain(words.split_whitespace()))
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn lines_that_are_accepted() {
    for words in [
        "volume create a --size 1GiB",
        "v create a --size 1G --store-id 00000000-0000-0000-0000-000000000001",
        "volume create a --size 1G --rf 3 --durability sync_quorum --paths multipath",
        "volume create a --size 1G --rf 2 --allow-degraded",
        "volume move-primary a --to n2",
        "volume force-promote a --node n2 --accept-data-loss",
        "--json --control http://[::1]:1 volume list",
        "volume list --json --control http://h:1",
        "volume ls",
        "volume status a",
        "volume delete a --yes",
        "volume rm a",
        "volume access a",
        "volume access a --initiator iqn.x:1 --initiator iqn.x:2",
        "volume access a --chap-user u --chap-secret-file f --mutual-user m --mutual-secret-file g",
        "node list",
        "event list",
        "store format /s --size 1GiB --overwrite --yes",
        "store inspect /s",
        "store check /s --data",
        "completions bash",
    ] {
        assert!(parse(words).is_ok(), "{words}");
    }
}

#[test]
fn lines_that_are_refused() {
    for words in [
        "",
        "volume",
        "volume create a",
        "volume create --size 1GiB",
        "volume create A --size 1GiB",
        "volume create a --size 1.5GiB",
        "volume create a --size 1GiB --store-id x",
        "volume create a --size 1GiB --durability sync",
        "volume create a --size 1GiB --paths some",
        "volume move-primary a",
        "volume force-promote a --node n2",
        "volume access a --chap-user u",
        "volume access a --chap-secret-file f",
        "volume access a --mutual-user m --mutual-secret-file g",
        "volume frobnicate",
        "store format",
        "completions tcl",
    ] {
        let error = parse(words).map(|_| ()).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
    }
}

/// A file that goes away with the test.
struct SecretFile(PathBuf);

impl SecretFile {
    fn holding(bytes: &[u8]) -> SecretFile {
        let name = format!("holdfast-secret-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("written");
        SecretFile(path)
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn access(chap: &[u8], mutual: &[u8]) -> Result<Access, super::Failure> {
    let (chap, mutual) = (SecretFile::holding(chap), SecretFile::holding(mutual));
    let line = format!(
        "volume access a --chap-user u --chap-secret-file {} --mutual-user m --mutual-secret-file {}",
        chap.0.display(),
        mutual.0.display()
    );
    match parse(&line).expect("legal").command {
        Command::Volume(VolumeCommand::Access { access, .. }) => access.read(),
        _ => unreachable!("it says volume access"),
    }
}

#[test]
fn a_last_newline_of_a_secret_does_not_count() {
    for bytes in [&b"twelve bytes"[..], b"twelve bytes\n", b"twelve bytes\r\n"] {
        let access = access(bytes, b"other twelve").expect("legal");
        assert_eq!(
            access.chap().expect("given").secret.expose(),
            b"twelve bytes"
        );
    }
    let access = access(b"twelve bytes\n\n", b"other twelve").expect("legal");
    assert_eq!(
        access.chap().expect("given").secret.expose(),
        b"twelve bytes\n"
    );
}

#[test]
fn bad_secrets_are_usage_errors_that_do_not_show_them() {
    for (chap, mutual) in [
        (&b"elevenbytes"[..], &b"other twelve"[..]),
        (b"twelve bytes", b"twelve bytes\n"),
        (b"twelve bytes", &[b'x'; 256]),
        (b"twelve bytes", &[b'x'; 9999]),
    ] {
        let failure = access(chap, mutual).expect_err("refused");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(
            !failure.message.contains("twelve bytes"),
            "{}",
            failure.message
        );
        assert!(!failure.message.contains("xx"), "{}", failure.message);
    }
}

//! Unix sockets: bound with their mode from the first instant on, in the place of one that nobody serves.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Group, chown};
use tokio::net::{UnixListener, UnixStream};

use super::ServeError;

/// A bound socket.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file; removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl UnixSocket {
    /// Binds `path`, which the configuration names under `key`; the file gets this mode and group.
    pub fn bind(path: &Path, key: &'static str, mode: u32, group: Option<&str>) -> Result<Self, ServeError> {
        let fail = |message: String| ServeError::Socket { path: path.to_owned(), key, message };
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(fail(
                    "there is a file of that name that is no socket; name another path".to_owned(),
                ));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(fail("another daemon serves it; stop that one first".to_owned()));
            }
            fs::remove_file(path)
                .map_err(|e| fail(format!("cannot take the place of the one left there: {e}")))?;
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| fail(format!("cannot create {}: {e}", dir.display())))?;
        }
        // Bound under a name of its own and renamed when its mode is set, so that nobody else ever reaches it.
        let hidden = path.with_extension(format!("{}.tmp", std::process::id()));
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(|e| fail(e.to_string()))?;
        if let Some(name) = group {
            let found = Group::from_name(name).ok().flatten();
            let found = found.ok_or_else(|| fail(format!("there is no group `{name}`")))?;
            chown(&hidden, None, Some(found.gid))
                .map_err(|e| fail(format!("its group cannot be set: {e}")))?;
        }
        fs::set_permissions(&hidden, fs::Permissions::from_mode(mode)).map_err(|e| fail(e.to_string()))?;
        fs::rename(&hidden, path).map_err(|e| fail(e.to_string()))?;
        Ok(Self { listener, file: SocketFile(path.to_owned()) })
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// The listener, and its file, which is to be kept as long.
    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_and_takes_the_place_of_a_dead_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("doors.sock");
        let first = UnixSocket::bind(&path, "serve.listen", 0o660, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let second = UnixSocket::bind(&path, "serve.listen", 0o660, None).unwrap_err();
        assert!(second.to_string().contains("another daemon"), "{second}");
        let (listener, file) = first.into_parts();
        drop(listener);
        std::mem::forget(file);
        drop(UnixSocket::bind(&path, "serve.listen", 0o600, None).unwrap());
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(UnixSocket::bind(&path, "serve.listen", 0o600, None).is_err());
        let nobody = UnixSocket::bind(&dir.path().join("x"), "serve.listen", 0o600, Some("no-such-group"));
        assert!(nobody.unwrap_err().to_string().contains("no group"));
    }
}

//! Setting a second factor up, asking for it, turning it off.

use super::totp::{Totp, refused};
use super::{Identity, now_unix};
use berth_types::{Error, Result};

const BEGUN_SECONDS: i64 = 900;

/// A second factor that waits for its first code: before that a lost picture would lock its user out.
pub(super) struct Begun {
    totp: Totp,
    until_unix: i64,
}

impl Identity {
    pub(crate) fn has_second_factor(&self, user: &str) -> bool {
        self.read().users.get(user).is_some_and(|user| user.totp.is_some())
    }

    pub(crate) fn begin_totp(&self, user: &str) -> Result<Totp> {
        if self.has_second_factor(user) {
            return Err(Error::conflict("there is a second factor already").with_hint("turn it off first"));
        }
        let (totp, now) = (Totp::new()?, now_unix());
        let mut begun = self.begun.lock().expect("no holder of this lock panics");
        begun.retain(|_, one| now < one.until_unix);
        begun.insert(user.to_owned(), Begun { totp: totp.clone(), until_unix: now + BEGUN_SECONDS });
        Ok(totp)
    }

    /// Turns it on once its code is right; answers the recovery codes.
    pub(crate) async fn confirm_totp(&self, user: &str, code: &str) -> Result<Vec<String>> {
        let now = now_unix();
        let begun = {
            let begun = self.begun.lock().expect("no holder of this lock panics");
            begun.get(user).filter(|one| now < one.until_unix).map(|one| one.totp.clone())
        };
        let mut totp =
            begun.ok_or_else(|| Error::conflict("no second factor is being set up").with_hint("begin again"))?;
        let used = totp.check(code, now).ok_or_else(refused)?;
        totp.spend(&used);
        let codes = totp.new_recovery()?;
        self.put_totp(user, Some(totp)).await?;
        self.begun.lock().expect("no holder of this lock panics").remove(user);
        Ok(codes)
    }

    /// Takes a code of `user`; one that was good is good no more.
    pub(crate) async fn use_totp(&self, user: &str, code: &str) -> Result<()> {
        // Spent under the lock: of two requests with one code one wins.
        let totp = {
            let mut state = self.write();
            let found = state.users.get_mut(user).and_then(|user| user.totp.as_mut()).ok_or_else(refused)?;
            let used = found.check(code, now_unix()).ok_or_else(refused)?;
            found.spend(&used);
            found.clone()
        };
        self.put_totp(user, Some(totp)).await
    }

    pub(crate) async fn put_totp(&self, name: &str, totp: Option<Totp>) -> Result<()> {
        let user = self.read().users.get(name).cloned().ok_or_else(|| super::no_user(name))?;
        self.put_user(name, super::User { totp, ..user }).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;

    #[tokio::test]
    async fn a_second_factor_counts_from_its_first_code_on() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        identity.add_user("ada", Role::Viewer, "long enough".into()).await.unwrap();
        assert!(identity.confirm_totp("ada", "000000").await.is_err(), "nothing was begun");
        let totp = identity.begin_totp("ada").unwrap();
        assert!(!identity.has_second_factor("ada"));
        let code = totp.code_now(now_unix());
        let recovery = identity.confirm_totp("ada", &code).await.unwrap();
        assert!(identity.use_totp("ada", &code).await.is_err(), "it was used already");
        identity.use_totp("ada", &recovery[0]).await.unwrap();
        assert!(identity.use_totp("ada", &recovery[0]).await.is_err());
        drop(identity);
        let identity = Identity::open(folder.path()).unwrap();
        assert!(identity.has_second_factor("ada") && identity.use_totp("ada", &recovery[0]).await.is_err());
        identity.put_totp("ada", None).await.unwrap();
        assert!(!identity.has_second_factor("ada"));
    }
}

//! Who may do what: users, sessions, API tokens, the one-time set-up token.
//!
//! ```text
//! <data-root>/console.redb    users/<name>  projects/<name>  sessions/<digest>  tokens/<id>  audit/<n>
//! ```
//!
//! Secrets are kept as digests only: whoever reads the file can sign in as nobody. Everything is in memory too,
//! so that checking a request costs no read; a change is durable before it is answered.

#[cfg(test)]
mod expired;
pub(crate) mod limit;
pub(crate) mod password;
pub(crate) mod projects;
mod second;
pub(crate) mod totp;

use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, Result};
use limit::Limiter;
use password::Hash;
use projects::Project;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use totp::Totp;

const SESSION_IDLE_SECONDS: i64 = 8 * 3600;
const SESSION_SECONDS_MAX: i64 = 7 * 24 * 3600;
/// The last use is written down at most so often.
const TOUCH_SECONDS: i64 = 300;
const SESSIONS_PER_USER_MAX: usize = 20;
const USERS_MAX: usize = 500;
const TOKENS_MAX: usize = 1000;
const TOKEN_DAYS_MAX: i64 = 366;
const SETUP_SECONDS: i64 = 900;
const NAME_BYTES_MAX: usize = 64;

/// What somebody may do; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// What their projects give them, and nothing else.
    Member,
    /// See everything but values of environment variables.
    Viewer,
    /// Make, change, end instances; use their terminals. Nothing that amounts to being root on the host.
    Operator,
    /// Everything: users, host folders in containers, privileged containers.
    Admin,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Member => "member",
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Role> {
        [Role::Member, Role::Viewer, Role::Operator, Role::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Error::invalid(format!("unknown role {text:?}: must be member, viewer, operator or admin")))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) role: Role,
    pub(crate) created_unix: i64,
    hash: Hash,
    #[serde(default)]
    pub(crate) totp: Option<Totp>,
    /// Signs in by a provider: `issuer subject`. Has no password of their own then.
    #[serde(default)]
    pub(crate) subject: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    user: String,
    csrf: String,
    created_unix: i64,
    used_unix: i64,
    from: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) role: Role,
    /// Good there only.
    #[serde(default)]
    pub(crate) project: Option<String>,
    /// Made by root on the host, who is no user of the console.
    #[serde(default)]
    local: bool,
    pub(crate) created_unix: i64,
    pub(crate) expires_unix: i64,
    digest: String,
}

/// Whoever makes a request.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) user: String,
    /// Everywhere.
    pub(crate) role: Role,
    /// What their projects give them there.
    pub(crate) projects: Arc<BTreeMap<String, Role>>,
    /// On what the request's path names: never less than everywhere.
    pub(crate) here: Role,
    /// For requests by cookie: what the page must repeat in a header.
    pub(crate) csrf: Option<String>,
    /// The session's or token's key, to ask later whether it still holds.
    key: Key,
}

#[derive(Debug, Clone, PartialEq)]
enum Key {
    Session(String),
    Token(String),
    /// The engine's own socket: whoever reaches it is root.
    Local,
}

impl Who {
    /// The same, asking for somebody else who may less.
    pub(crate) fn lowered(mut self, user: String, role: Role) -> Who {
        self.role = self.role.min(role);
        self.here = self.role;
        self.user = user;
        let projects = self.projects.iter().map(|(name, there)| (name.clone(), (*there).min(role))).collect();
        self.projects = Arc::new(projects);
        self
    }

    pub(crate) fn local() -> Who {
        Who {
            user: "root".to_owned(),
            role: Role::Admin,
            projects: Arc::default(),
            here: Role::Admin,
            csrf: None,
            key: Key::Local,
        }
    }
}

#[derive(Debug)]
pub(crate) struct SignedIn {
    /// The cookie's value.
    pub(crate) secret: String,
    pub(crate) who: Who,
}

pub(crate) struct Identity {
    store: Store,
    state: RwLock<State>,
    setup: Mutex<Option<Setup>>,
    /// Second factors that wait for their first code.
    begun: Mutex<BTreeMap<String, second::Begun>>,
    pub(crate) limiter: Limiter,
}

#[derive(Default)]
struct State {
    users: BTreeMap<String, User>,
    sessions: BTreeMap<String, Session>,
    tokens: BTreeMap<String, Token>,
    projects: BTreeMap<String, Project>,
}

impl State {
    /// What the owner of `token` may do now; `None`: there is no such user any more.
    fn role_behind(&self, token: &Token) -> Option<Role> {
        if token.local { Some(Role::Admin) } else { self.users.get(&token.user).map(|user| user.role) }
    }

    /// Their roles in projects, none more than `most`.
    fn memberships(&self, user: &str, most: Role, only: Option<&str>) -> BTreeMap<String, Role> {
        let named = self.projects.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
        let mine = named.filter_map(|(name, project)| Some((name.clone(), (*project.members.get(user)?).min(most))));
        mine.collect()
    }
}

struct Setup {
    digest: String,
    expires_unix: Option<i64>,
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::internal(format!("no random bytes: {errno}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    berth_types::digest::hex(bytes)
}

fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

pub(crate) fn now_unix() -> i64 {
    berth_engine::events::now_unix_nanos() / 1_000_000_000
}

fn storing(error: StoreError) -> Error {
    Error::because(berth_types::ErrorKind::Internal, "cannot write the console's records", &error)
}

/// In the data root.
const RECORDS: &str = "console.redb";

impl Identity {
    /// Whether a console was ever served from here.
    pub(crate) fn is_kept(data_root: &Path) -> bool {
        data_root.join(RECORDS).exists()
    }

    pub(crate) fn open(data_root: &Path) -> Result<Identity> {
        let store = Store::open(&data_root.join(RECORDS), |_, _, record| record).map_err(|cause| {
            Error::because(berth_types::ErrorKind::Unavailable, "cannot open the console's records", &cause)
        })?;
        let state = State {
            users: read(&store, "users")?,
            sessions: read(&store, "sessions")?,
            tokens: read(&store, "tokens")?,
            projects: read(&store, "projects")?,
        };
        let identity = Identity {
            store,
            state: RwLock::new(state),
            setup: Mutex::new(None),
            begun: Mutex::default(),
            limiter: Limiter::default(),
        };
        identity.sweep()?;
        Ok(identity)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of this lock panics")
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(storing)
    }

    /// Forgets sessions and tokens that have ended.
    fn sweep(&self) -> Result<()> {
        let now = now_unix();
        let mut batch = Batch::new();
        let mut state = self.write();
        state.sessions.retain(|key, session| {
            let keep = session_holds(session, now);
            if !keep {
                batch.delete("sessions", key);
            }
            keep
        });
        drop(state);
        match batch.is_empty() {
            true => Ok(()),
            false => self.store.commit(batch).map_err(storing),
        }
    }

    pub(crate) fn needs_setup(&self) -> bool {
        self.read().users.is_empty()
    }

    /// A token with which one administrator can be made. Replaces the one before; without an end on the first
    /// run, else for a quarter of an hour.
    pub(crate) fn new_setup_token(&self) -> Result<String> {
        let bytes = random::<15>()?;
        let text = hex(&bytes);
        let token = text.as_bytes().chunks(6).map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>().join("-");
        let expires_unix = (!self.needs_setup()).then(|| now_unix() + SETUP_SECONDS);
        *self.setup.lock().expect("no holder of this lock panics") =
            Some(Setup { digest: digest(&token), expires_unix });
        Ok(token)
    }

    /// Makes the first administrator, or another one for whoever is root on the host.
    pub(crate) async fn set_up(&self, token: &str, name: &str, password: String) -> Result<()> {
        let refused = || {
            Error::new(berth_types::ErrorKind::Unauthorized, "this set-up token is not valid")
                .with_hint("get a new one on the host with: berth console token")
        };
        let holds = |setup: &Option<Setup>| {
            setup.as_ref().is_some_and(|setup| {
                password::same(setup.digest.as_bytes(), digest(token.trim()).as_bytes())
                    && setup.expires_unix.is_none_or(|end| now_unix() < end)
            })
        };
        if !holds(&self.setup.lock().expect("no holder of this lock panics")) {
            return Err(refused());
        }
        check_name(name)?;
        let hash = Hash::of(password).await?;
        // Taken only now: a password that was too short must not cost the token.
        {
            let mut setup = self.setup.lock().expect("no holder of this lock panics");
            if !holds(&setup) {
                return Err(refused());
            }
            *setup = None;
        }
        self.put_user(name, User { role: Role::Admin, created_unix: now_unix(), hash, totp: None, subject: None }).await
    }

    async fn put_user(&self, name: &str, user: User) -> Result<()> {
        let mut batch = Batch::new();
        batch.put("users", name, &user).map_err(storing)?;
        self.commit(batch).await?;
        self.write().users.insert(name.to_owned(), user);
        Ok(())
    }

    pub(crate) fn users(&self) -> Vec<(String, User)> {
        self.read().users.iter().map(|(name, user)| (name.clone(), user.clone())).collect()
    }

    pub(crate) async fn add_user(&self, name: &str, role: Role, password: String) -> Result<()> {
        check_name(name)?;
        if self.read().users.contains_key(name) {
            return Err(Error::conflict(format!("there is a user {name} already")));
        }
        if self.read().users.len() >= USERS_MAX {
            return Err(Error::conflict(format!("there are {USERS_MAX} users already")));
        }
        let hash = Hash::of(password).await?;
        self.put_user(name, User { role, created_unix: now_unix(), hash, totp: None, subject: None }).await
    }

    /// Somebody whom a provider knows: made on their first sign-in, with the role that their groups have now.
    pub(crate) async fn provided(&self, name: &str, subject: &str, role: Role) -> Result<()> {
        check_name(name)?;
        let known = self.read().users.get(name).cloned();
        if let Some(user) = &known
            && user.subject.as_deref() != Some(subject)
        {
            return Err(Error::conflict(format!("{name} is another user here"))
                .with_hint("an administrator can remove that user, or the provider send another name"));
        }
        if known.as_ref().is_some_and(|user| user.role == role) {
            return Ok(());
        }
        if known.is_none() && self.read().users.len() >= USERS_MAX {
            return Err(Error::conflict(format!("there are {USERS_MAX} users already")));
        }
        // Nobody knows this password: it only fills its place.
        let hash = match &known {
            Some(user) => user.hash.clone(),
            None => Hash::of(hex(&random::<32>()?)).await?,
        };
        let created_unix = known.map_or_else(now_unix, |user| user.created_unix);
        let user = User { role, created_unix, hash, totp: None, subject: Some(subject.to_owned()) };
        self.put_user(name, user).await?;
        self.end_sessions(name, None).await
    }

    /// Changes role or password; both end the user's sessions but the one in `keep`.
    pub(crate) async fn change_user(
        &self,
        name: &str,
        role: Option<Role>,
        password: Option<String>,
        forget_totp: bool,
        keep: &Who,
    ) -> Result<()> {
        let mut user = self.read().users.get(name).cloned().ok_or_else(|| no_user(name))?;
        if let Some(role) = role {
            if user.role == Role::Admin && role != Role::Admin && self.admins() == 1 {
                return Err(Error::conflict(format!("{name} is the only administrator"))
                    .with_hint("give somebody else that role first"));
            }
            user.role = role;
        }
        if let Some(password) = password {
            user.hash = Hash::of(password).await?;
        }
        if forget_totp {
            user.totp = None;
        }
        self.put_user(name, user).await?;
        self.end_sessions(name, Some(keep)).await
    }

    fn admins(&self) -> usize {
        self.read().users.values().filter(|user| user.role == Role::Admin).count()
    }

    pub(crate) async fn remove_user(&self, name: &str) -> Result<()> {
        let user = self.read().users.get(name).cloned().ok_or_else(|| no_user(name))?;
        if user.role == Role::Admin && self.admins() == 1 {
            return Err(Error::conflict(format!("{name} is the only administrator"))
                .with_hint("make another administrator first"));
        }
        let mut batch = Batch::new();
        batch.delete("users", name);
        let tokens: Vec<String> = self
            .read()
            .tokens
            .iter()
            .filter(|(_, one)| one.user == name && !one.local)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &tokens {
            batch.delete("tokens", id);
        }
        // A later user of that name is somebody else.
        let mut left = self.read().projects.clone();
        left.retain(|_, project| project.members.remove(name).is_some());
        for (project, record) in &left {
            batch.put("projects", project, record).map_err(storing)?;
        }
        self.commit(batch).await?;
        {
            let mut state = self.write();
            state.users.remove(name);
            state.projects.extend(left);
            state.tokens.retain(|id, _| !tokens.contains(id));
        }
        self.end_sessions(name, None).await
    }

    async fn end_sessions(&self, user: &str, keep: Option<&Who>) -> Result<()> {
        let kept = |key: &str| keep.is_some_and(|who| who.key == Key::Session(key.to_owned()));
        let ended: Vec<String> = (self.read().sessions.iter())
            .filter(|(key, session)| session.user == user && !kept(key))
            .map(|(key, _)| key.clone())
            .collect();
        let mut batch = Batch::new();
        for key in &ended {
            batch.delete("sessions", key);
        }
        self.write().sessions.retain(|key, _| !ended.contains(key));
        match batch.is_empty() {
            true => Ok(()),
            false => self.commit(batch).await,
        }
    }

    /// Whether name and password belong together; wrong names cost as much time as wrong passwords.
    pub(crate) async fn check_password(&self, name: &str, password: String) -> Result<bool> {
        let user = self.read().users.get(name).cloned();
        match user {
            Some(user) => user.hash.matches(password).await,
            None => password::pretend(password).await.map(|()| false),
        }
    }

    pub(crate) async fn sign_in(&self, name: &str, from: &str) -> Result<SignedIn> {
        let role = self.read().users.get(name).map(|user| user.role).ok_or_else(|| no_user(name))?;
        let (secret, csrf) = (hex(&random::<32>()?), hex(&random::<16>()?));
        let (key, now) = (digest(&secret), now_unix());
        let session = Session {
            user: name.to_owned(),
            csrf: csrf.clone(),
            created_unix: now,
            used_unix: now,
            from: from.to_owned(),
        };
        let mut batch = Batch::new();
        batch.put("sessions", &key, &session).map_err(storing)?;
        {
            let mut state = self.write();
            let mut own: Vec<(i64, String)> = (state.sessions.iter())
                .filter(|(_, session)| session.user == name)
                .map(|(key, session)| (session.used_unix, key.clone()))
                .collect();
            own.sort();
            for (_, old) in own.iter().take((own.len() + 1).saturating_sub(SESSIONS_PER_USER_MAX)) {
                state.sessions.remove(old);
                batch.delete("sessions", old);
            }
            state.sessions.insert(key.clone(), session);
        }
        self.commit(batch).await?;
        let projects = Arc::new(self.read().memberships(name, Role::Admin, None));
        let who = Who { user: name.to_owned(), role, projects, here: role, csrf: Some(csrf), key: Key::Session(key) };
        Ok(SignedIn { secret, who })
    }

    pub(crate) async fn sign_out(&self, who: &Who) -> Result<()> {
        let Key::Session(key) = &who.key else { return Ok(()) };
        self.write().sessions.remove(key);
        let mut batch = Batch::new();
        batch.delete("sessions", key);
        self.commit(batch).await
    }

    /// Who a cookie's value belongs to.
    pub(crate) fn by_session(&self, secret: &str) -> Option<Who> {
        let (key, now) = (digest(secret), now_unix());
        let mut state = self.write();
        let session = state.sessions.get(&key)?.clone();
        let role = state.users.get(&session.user)?.role;
        if !session_holds(&session, now) {
            state.sessions.remove(&key);
            return None;
        }
        if now - session.used_unix >= TOUCH_SECONDS
            && let Some(session) = state.sessions.get_mut(&key)
        {
            session.used_unix = now;
            let mut batch = Batch::new();
            if batch.put("sessions", &key, session).is_ok() {
                // Lost in a crash, it only ends the session a little sooner.
                self.store.submit(batch, |result| {
                    if let Err(cause) = result {
                        tracing::warn!(%cause, "cannot note a session's last use");
                    }
                });
            }
        }
        let projects = Arc::new(state.memberships(&session.user, Role::Admin, None));
        Some(Who { user: session.user, role, projects, here: role, csrf: Some(session.csrf), key: Key::Session(key) })
    }

    /// Who a token belongs to: never more than its user may do now.
    pub(crate) fn by_token(&self, secret: &str) -> Option<Who> {
        let id = secret.strip_prefix("berth_")?.split('_').next()?;
        let state = self.read();
        let token = state.tokens.get(id)?;
        let most = state.role_behind(token)?;
        let holds =
            password::same(token.digest.as_bytes(), digest(secret).as_bytes()) && now_unix() < token.expires_unix;
        if !holds {
            return None;
        }
        let mut projects = state.memberships(&token.user, token.role, token.project.as_deref());
        let mut role = token.role.min(most);
        if let Some(project) = &token.project {
            // What the user may do everywhere, the token may do there only.
            let there = projects.get(project).copied().unwrap_or(Role::Member).max(role).min(Role::Operator);
            projects.insert(project.clone(), there);
            role = Role::Member;
        }
        Some(Who {
            user: token.user.clone(),
            role,
            projects: Arc::new(projects),
            here: role,
            csrf: None,
            key: Key::Token(id.to_owned()),
        })
    }

    /// Whether `who` may still do what they could when they came: for streams that stay open.
    pub(crate) fn still_holds(&self, who: &Who) -> bool {
        let state = self.read();
        let now = now_unix();
        let (owner, role) = match &who.key {
            Key::Session(key) => match state.sessions.get(key).filter(|session| session_holds(session, now)) {
                Some(session) => (&session.user, state.users.get(&session.user).map(|user| user.role)),
                None => return false,
            },
            Key::Token(id) => match state.tokens.get(id).filter(|token| now < token.expires_unix) {
                Some(token) => (&token.user, state.role_behind(token)),
                None => return false,
            },
            Key::Local => return true,
        };
        let member = |name: &String, then: Role| {
            let now = state.projects.get(name).and_then(|project| project.members.get(owner)).copied();
            now.into_iter().chain(role).any(|now| now >= then)
        };
        role.is_some_and(|role| role >= who.role) && who.projects.iter().all(|(name, then)| member(name, *then))
    }

    pub(crate) fn tokens(&self) -> Vec<(String, Token)> {
        self.read().tokens.iter().map(|(id, token)| (id.clone(), token.clone())).collect()
    }

    /// Root on the host, by the engine's socket or by a token that was made there.
    fn is_local(&self, who: &Who) -> bool {
        match &who.key {
            Key::Local => true,
            Key::Token(id) => self.read().tokens.get(id).is_some_and(|token| token.local),
            Key::Session(_) => false,
        }
    }

    /// Answers the secret: it is never shown again.
    pub(crate) async fn add_token(
        &self,
        who: &Who,
        name: &str,
        role: Role,
        project: Option<&str>,
        days: i64,
    ) -> Result<(String, String)> {
        if name.trim().is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!("a token's name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        if !(1..=TOKEN_DAYS_MAX).contains(&days) {
            return Err(Error::invalid(format!("a token lives 1 to {TOKEN_DAYS_MAX} days")));
        }
        if let Some(project) = project {
            self.project(project)?;
        }
        let most = project.map_or_else(|| who.best(), |project| who.role_on(Some(project)));
        if role > most || most < Role::Viewer {
            return Err(Error::new(berth_types::ErrorKind::Forbidden, "a token cannot do more than you"));
        }
        let now = now_unix();
        {
            let mut state = self.write();
            state.tokens.retain(|_, token| now < token.expires_unix);
            if state.tokens.len() >= TOKENS_MAX {
                return Err(Error::conflict(format!("there are {TOKENS_MAX} tokens already")));
            }
        }
        let (id, secret) = (hex(&random::<6>()?), hex(&random::<24>()?));
        let secret = format!("berth_{id}_{secret}");
        let token = Token {
            name: name.to_owned(),
            user: who.user.clone(),
            role,
            project: project.map(str::to_owned),
            local: self.is_local(who),
            created_unix: now,
            expires_unix: now + days * 24 * 3600,
            digest: digest(&secret),
        };
        let mut batch = Batch::new();
        batch.put("tokens", &id, &token).map_err(storing)?;
        self.commit(batch).await?;
        self.write().tokens.insert(id.clone(), token);
        Ok((id, secret))
    }

    /// One's own, or anybody's for an administrator.
    pub(crate) async fn remove_token(&self, who: &Who, id: &str) -> Result<()> {
        let none = || Error::not_found(format!("there is no token {id}"));
        let owner = self.read().tokens.get(id).map(|token| token.user.clone()).ok_or_else(none)?;
        if owner != who.user && who.role != Role::Admin {
            return Err(none());
        }
        let mut batch = Batch::new();
        batch.delete("tokens", id);
        self.commit(batch).await?;
        self.write().tokens.remove(id);
        Ok(())
    }
}

fn session_holds(session: &Session, now: i64) -> bool {
    now - session.used_unix < SESSION_IDLE_SECONDS && now - session.created_unix < SESSION_SECONDS_MAX
}

fn no_user(name: &str) -> Error {
    Error::not_found(format!("there is no user {name}"))
}

fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    match !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(good) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "a user's name has 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes, underscores or @"
        ))),
    }
}

/// A table whole; a record that does not read is told and left where it is.
fn read<T: serde::de::DeserializeOwned>(store: &Store, table: &str) -> Result<BTreeMap<String, T>> {
    let mut all = BTreeMap::new();
    for (key, record) in store.list(table).map_err(storing)? {
        match record {
            Ok(record) => drop(all.insert(key, record)),
            Err(cause) => tracing::error!(table, key, %cause, "a record of the console does not read"),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Identity) {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        (folder, identity)
    }

    #[tokio::test]
    async fn a_setup_token_makes_one_administrator() {
        let (_folder, identity) = scratch();
        let token = identity.new_setup_token().unwrap();
        assert!(identity.set_up("wrong", "ada", "long enough".into()).await.is_err());
        assert!(identity.set_up(&token, "ada", "short".into()).await.is_err(), "and keeps the token");
        identity.set_up(&token, "ada", "long enough".into()).await.unwrap();
        assert!(identity.set_up(&token, "eve", "long enough".into()).await.is_err());
        assert!(!identity.needs_setup());
        assert!(identity.check_password("ada", "long enough".into()).await.unwrap());
        assert!(!identity.check_password("eve", "long enough".into()).await.unwrap());
    }

    #[tokio::test]
    async fn sessions_and_tokens_outlive_the_engine_and_end_with_their_user() {
        let (folder, identity) = scratch();
        let token = identity.new_setup_token().unwrap();
        identity.set_up(&token, "ada", "long enough".into()).await.unwrap();
        identity.add_user("bob", Role::Operator, "long enough".into()).await.unwrap();
        let signed_in = identity.sign_in("bob", "127.0.0.1").await.unwrap();
        let (_, secret) = identity.add_token(&signed_in.who, "ci", Role::Viewer, None, 1).await.unwrap();
        assert!(identity.add_token(&signed_in.who, "more", Role::Admin, None, 1).await.is_err());
        drop(identity);

        let identity = Identity::open(folder.path()).unwrap();
        let who = identity.by_session(&signed_in.secret).unwrap();
        assert_eq!((who.user.as_str(), who.role), ("bob", Role::Operator));
        assert_eq!(identity.by_token(&secret).unwrap().role, Role::Viewer);
        let forged = format!("{}0", &secret[..secret.len() - 1]);
        assert!(identity.by_token(&forged).is_none() || forged == secret);
        assert!(identity.by_session("").is_none() && identity.by_token("berth_").is_none());
        identity.remove_user("bob").await.unwrap();
        assert!(identity.by_session(&signed_in.secret).is_none());
        assert!(identity.by_token(&secret).is_none());
        assert!(!identity.still_holds(&who));
        assert!(identity.remove_user("ada").await.is_err(), "the only administrator stays");
    }

    #[tokio::test]
    async fn a_project_gives_rights_until_it_takes_them() {
        let (folder, identity) = scratch();
        identity.add_user("bob", Role::Member, "long enough".into()).await.unwrap();
        let members = |role| Some(BTreeMap::from([("bob".to_owned(), role)]));
        let put = |new, members| identity.put_project("shop", new, None, None, members);
        assert!(put(true, members(Role::Admin)).await.is_err(), "an administrator is one everywhere");
        put(true, members(Role::Operator)).await.unwrap();
        let bob = identity.sign_in("bob", "::1").await.unwrap();
        assert_eq!(bob.who.role_on(Some("shop")), Role::Operator);
        let (_, secret) = identity.add_token(&bob.who, "ci", Role::Viewer, Some("shop"), 1).await.unwrap();
        let token = identity.by_token(&secret).unwrap();
        assert_eq!((token.role_on(Some("shop")), token.role_on(None)), (Role::Viewer, Role::Member));
        assert!(identity.add_token(&bob.who, "ci", Role::Viewer, Some("lab"), 1).await.is_err());
        assert!(identity.still_holds(&bob.who));
        put(false, members(Role::Viewer)).await.unwrap();
        assert!(!identity.still_holds(&bob.who), "streams that were opened as an operator end");
        assert_eq!(identity.by_session(&bob.secret).unwrap().best(), Role::Viewer);
        identity.remove_user("bob").await.unwrap();
        drop(identity);
        assert!(Identity::open(folder.path()).unwrap().project("shop").unwrap().members.is_empty());
    }

    #[tokio::test]
    async fn a_provider_takes_over_nobody() {
        let (_folder, identity) = scratch();
        identity.add_user("ada", Role::Admin, "long enough".into()).await.unwrap();
        assert!(identity.provided("ada", "https://id 1", Role::Admin).await.is_err(), "a local user of that name");
        identity.provided("bob", "https://id 2", Role::Viewer).await.unwrap();
        assert!(identity.provided("bob", "https://id 3", Role::Admin).await.is_err(), "another one of that name");
        let session = identity.sign_in("bob", "::1").await.unwrap();
        identity.provided("bob", "https://id 2", Role::Operator).await.unwrap();
        assert!(identity.by_session(&session.secret).is_none(), "a new role ends the old sessions");
        assert_eq!(identity.sign_in("bob", "::1").await.unwrap().who.role, Role::Operator);
        assert!(identity.provided("<b>", "https://id 4", Role::Viewer).await.is_err());
    }

    #[test]
    fn sessions_end_by_idleness_and_by_age() {
        let session = |created_unix, used_unix| Session {
            user: "ada".into(),
            csrf: String::new(),
            created_unix,
            used_unix,
            from: String::new(),
        };
        assert!(session_holds(&session(0, 0), SESSION_IDLE_SECONDS - 1));
        assert!(!session_holds(&session(0, 0), SESSION_IDLE_SECONDS));
        assert!(!session_holds(&session(0, SESSION_SECONDS_MAX), SESSION_SECONDS_MAX));
    }

    #[test]
    fn hostile_names_are_no_users() {
        for name in ["", "a/b", "<script>", "a b", "x\n", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("ada.lovelace@example").is_ok());
    }
}

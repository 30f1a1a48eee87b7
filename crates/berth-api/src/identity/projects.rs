//! Projects: who may do what in them, and how much they may use.
//!
//! An instance, machine, volume or network is in the project that its label [`LABEL`] names, whoever made it: by
//! the console, by `berth run --label`, by compose. What carries no such label is in no project and is seen by
//! those only whose role holds everywhere.

use super::{Identity, NAME_BYTES_MAX, Role, Token, Who, now_unix, storing};
use berth_store::Batch;
use berth_types::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const LABEL: &str = "berth.project";
const PROJECTS_MAX: usize = 500;
const ABOUT_BYTES_MAX: usize = 500;

/// What all of a project may have together; 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quota {
    pub(crate) instances: u64,
    pub(crate) cpus: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Project {
    pub(crate) about: String,
    pub(crate) created_unix: i64,
    pub(crate) quota: Quota,
    /// Users and their roles here: viewer or operator.
    pub(crate) members: BTreeMap<String, Role>,
}

/// The project that labels say.
pub(crate) fn of(labels: &BTreeMap<String, String>) -> Option<&str> {
    labels.get(LABEL).map(String::as_str).filter(|name| !name.is_empty())
}

impl Who {
    /// What they may do with something that is in `project`, or in none.
    pub(crate) fn role_on(&self, project: Option<&str>) -> Role {
        let here = project.and_then(|name| self.projects.get(name)).copied();
        here.map_or(self.role, |role| role.max(self.role))
    }

    pub(crate) fn sees(&self, labels: &BTreeMap<String, String>) -> bool {
        self.role_on(of(labels)) >= Role::Viewer
    }

    /// Refused where they may not change what has these labels.
    pub(crate) fn must_operate(&self, labels: &BTreeMap<String, String>) -> Result<()> {
        match self.role_on(of(labels)) >= Role::Operator {
            true => Ok(()),
            false => Err(Error::new(
                berth_types::ErrorKind::Forbidden,
                format!("{} is no operator of {}", self.user, of(labels).unwrap_or("what is in no project")),
            )),
        }
    }

    /// Everything of this engine, not only what their projects have.
    pub(crate) fn sees_all(&self) -> bool {
        self.role >= Role::Viewer
    }

    /// The most that they may do anywhere.
    pub(crate) fn best(&self) -> Role {
        self.projects.values().copied().max().map_or(self.role, |role| role.max(self.role))
    }

    /// Where something new of theirs goes: what they ask for, or the only project that they have.
    pub(crate) fn place(&self, wanted: &str) -> Result<Option<String>> {
        if !wanted.is_empty() {
            return match self.role_on(Some(wanted)) >= Role::Operator {
                true => Ok(Some(wanted.to_owned())),
                false => Err(Error::new(
                    berth_types::ErrorKind::Forbidden,
                    format!("{} may make nothing in project {wanted}", self.user),
                )),
            };
        }
        if self.role >= Role::Operator {
            return Ok(None);
        }
        let mine: Vec<&String> =
            self.projects.iter().filter(|(_, role)| **role >= Role::Operator).map(|(name, _)| name).collect();
        match mine.as_slice() {
            [only] => Ok(Some((*only).clone())),
            _ => Err(Error::invalid("say in which project").with_hint(format!(
                "{} may make things in: {}",
                self.user,
                mine.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

/// Also the name of its network: short, and plain everywhere.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    match begins && name.len() <= NAME_BYTES_MAX && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "a project's name has 1 to {NAME_BYTES_MAX} lower-case letters, digits or dashes, and begins with no dash"
        ))),
    }
}

fn none(name: &str) -> Error {
    Error::not_found(format!("there is no project {name}"))
}

impl Quota {
    fn check(&self) -> Result<()> {
        match self.cpus.is_finite() && self.cpus >= 0.0 {
            true => Ok(()),
            false => Err(Error::invalid("the number of processors must be 0 or more")),
        }
    }
}

impl Identity {
    pub(crate) fn projects(&self) -> Vec<(String, Project)> {
        self.read().projects.iter().map(|(name, project)| (name.clone(), project.clone())).collect()
    }

    pub(crate) fn project(&self, name: &str) -> Result<Project> {
        self.read().projects.get(name).cloned().ok_or_else(|| none(name))
    }

    /// Makes it, or changes what is given.
    pub(crate) async fn put_project(
        &self,
        name: &str,
        new: bool,
        about: Option<String>,
        quota: Option<Quota>,
        members: Option<BTreeMap<String, Role>>,
    ) -> Result<()> {
        check_name(name)?;
        let mut project = match (self.read().projects.get(name), new) {
            (Some(_), true) => return Err(Error::conflict(format!("there is a project {name} already"))),
            (None, false) => return Err(none(name)),
            (Some(project), false) => project.clone(),
            (None, true) => Project { created_unix: now_unix(), ..Project::default() },
        };
        if new && self.read().projects.len() >= PROJECTS_MAX {
            return Err(Error::conflict(format!("there are {PROJECTS_MAX} projects already")));
        }
        if let Some(about) = about {
            if about.len() > ABOUT_BYTES_MAX {
                return Err(Error::invalid(format!("what a project is for has more than {ABOUT_BYTES_MAX} bytes")));
            }
            project.about = about;
        }
        if let Some(quota) = quota {
            quota.check()?;
            project.quota = quota;
        }
        if let Some(members) = members {
            for (user, role) in &members {
                if !self.read().users.contains_key(user) {
                    return Err(Error::not_found(format!("there is no user {user}")));
                }
                if !matches!(role, Role::Viewer | Role::Operator) {
                    return Err(Error::invalid(format!("{user} can be viewer or operator of a project"))
                        .with_hint("an administrator is one everywhere"));
                }
            }
            project.members = members;
        }
        let mut batch = Batch::new();
        batch.put("projects", name, &project).map_err(storing)?;
        self.commit(batch).await?;
        self.write().projects.insert(name.to_owned(), project);
        Ok(())
    }

    /// With the tokens that are good in it only: a later project of its name is another one.
    pub(crate) async fn remove_project(&self, name: &str) -> Result<()> {
        self.project(name)?;
        let bound = |token: &Token| token.project.as_deref() == Some(name);
        let tokens: Vec<String> =
            self.read().tokens.iter().filter(|(_, token)| bound(token)).map(|(id, _)| id.clone()).collect();
        let mut batch = Batch::new();
        batch.delete("projects", name);
        for id in &tokens {
            batch.delete("tokens", id);
        }
        self.commit(batch).await?;
        let mut state = self.write();
        state.projects.remove(name);
        state.tokens.retain(|_, token| !bound(token));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::*;

    fn who(role: Role, projects: &[(&str, Role)]) -> Who {
        let projects = projects.iter().map(|(name, role)| ((*name).to_owned(), *role));
        let projects = std::sync::Arc::new(projects.collect());
        Who { user: "bob".into(), role, projects, here: role, csrf: None, key: Key::Local }
    }

    #[test]
    fn a_member_sees_what_is_in_their_projects_and_nothing_else() {
        let bob = who(Role::Member, &[("shop", Role::Operator), ("bank", Role::Viewer)]);
        let labels = |name: &str| BTreeMap::from([(LABEL.to_owned(), name.to_owned())]);
        assert!(bob.sees(&labels("shop")) && bob.sees(&labels("bank")));
        assert!(!bob.sees(&labels("lab")) && !bob.sees(&labels("")) && !bob.sees(&BTreeMap::new()));
        assert_eq!(
            (bob.role_on(Some("bank")), bob.role_on(None), bob.best()),
            (Role::Viewer, Role::Member, Role::Operator)
        );
        assert!(who(Role::Viewer, &[]).sees(&BTreeMap::new()));
    }

    #[test]
    fn something_new_goes_to_the_only_project_or_where_it_is_asked_for() {
        let bob = who(Role::Member, &[("shop", Role::Operator), ("bank", Role::Viewer)]);
        assert_eq!(bob.place("").unwrap().as_deref(), Some("shop"));
        assert!(bob.place("bank").is_err() && bob.place("lab").is_err());
        assert!(who(Role::Member, &[]).place("").is_err());
        assert_eq!(who(Role::Operator, &[]).place("").unwrap(), None);
        assert_eq!(who(Role::Operator, &[]).place("lab").unwrap().as_deref(), Some("lab"));
    }

    #[tokio::test]
    async fn a_token_of_a_removed_project_is_not_good_in_the_next_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        identity.add_user("bob", Role::Operator, "long enough".into()).await.unwrap();
        let bob = identity.sign_in("bob", "::1").await.unwrap().who;
        for name in ["shop", "bank"] {
            identity.put_project(name, true, None, None, None).await.unwrap();
        }
        let (_, shop) = identity.add_token(&bob, "ci", Role::Viewer, Some("shop"), 1).await.unwrap();
        let (_, bank) = identity.add_token(&bob, "ci", Role::Viewer, Some("bank"), 1).await.unwrap();
        identity.remove_project("shop").await.unwrap();
        identity.put_project("shop", true, None, None, None).await.unwrap();
        assert!(identity.by_token(&shop).is_none() && identity.by_token(&bank).is_some());
        drop(identity);
        let identity = Identity::open(folder.path()).unwrap();
        assert!(identity.by_token(&shop).is_none() && identity.by_token(&bank).is_some());
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "-a", "A", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("shop-2").is_ok());
        assert!(Quota { cpus: f64::NAN, ..Quota::default() }.check().is_err());
    }
}

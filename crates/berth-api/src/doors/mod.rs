//! The handlers, by what they are about, and the table of their routes.

pub(crate) mod account;
pub(crate) mod create;
pub(crate) mod images;
pub(crate) mod instances;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod networks;
pub(crate) mod people;
pub(crate) mod remake;
pub(crate) mod render;
pub(crate) mod streams;
pub(crate) mod system;
pub(crate) mod volumes;

use crate::routes::{ADMIN, Access, OPERATOR, Table, VIEWER};
use crate::schema::answers;
use axum::http::Method;

answers! {
    /// It is done, and there is nothing more to say.
    Done {
        /// What should be known: a limit that this host cannot keep, for example.
        warnings: Vec<String>,
    }
}

impl Done {
    pub(crate) fn plainly() -> axum::Json<Done> {
        axum::Json(Done { warnings: Vec::new() })
    }
}

#[rustfmt::skip]
pub(crate) fn table() -> Table {
    let mut t = Table::default();
    let (get, post, patch, delete) = (Method::GET, Method::POST, Method::PATCH, Method::DELETE);

    t.add::<(), account::Entry, _, _>(get.clone(), "/entry", Access::Public, "", "Whether the first administrator must be made", account::entry);
    t.add::<account::SetUp, account::SessionView, _, _>(post.clone(), "/setup", Access::Public, "", "Makes an administrator with the one-time set-up token and signs in", account::set_up);
    t.add::<account::SignIn, account::SessionView, _, _>(post.clone(), "/session", Access::Public, "", "Signs in; answers a cookie", account::sign_in);
    t.add::<(), account::SessionView, _, _>(get.clone(), "/session", VIEWER, "", "Who is signed in", account::session);
    t.add::<(), Done, _, _>(delete.clone(), "/session", VIEWER, "session.end", "Signs out", account::sign_out);
    t.add::<account::NewPassword, Done, _, _>(post.clone(), "/session/password", VIEWER, "session.password", "Changes one's own password", account::password);

    t.add::<(), Vec<instances::Instance>, _, _>(get.clone(), "/instances", VIEWER, "", "All instances", instances::list);
    t.add::<create::CreateInstance, instances::Created, _, _>(post.clone(), "/instances", OPERATOR, "instance.create", "Makes an instance, and starts it where asked", create::create);
    t.add::<create::CreateInstance, render::Texts, _, _>(post.clone(), "/instances/preview", VIEWER, "", "The same wish as a command, as a call of this API and as compose text", create::preview);
    t.add::<instances::Bulk, crate::tasks::Task, _, _>(post.clone(), "/instances/bulk", OPERATOR, "instances.bulk", "Does one thing to many instances, as a task", instances::bulk);
    t.add::<(), instances::InstanceDetail, _, _>(get.clone(), "/instances/{id}", VIEWER, "", "Everything about one", instances::inspect);
    t.add::<instances::Update, Done, _, _>(patch.clone(), "/instances/{id}", OPERATOR, "instance.update", "Changes limits and restart policy, live where it runs", instances::update);
    t.add::<(), Done, _, _>(delete.clone(), "/instances/{id}", OPERATOR, "instance.remove", "Removes it; ?force=true ends it first, ?volumes=true takes its unnamed volumes along", instances::remove);
    t.add::<(), Done, _, _>(post.clone(), "/instances/{id}/start", OPERATOR, "instance.start", "Starts it", instances::start);
    t.add::<(), Done, _, _>(post.clone(), "/instances/{id}/stop", OPERATOR, "instance.stop", "Asks it to end, and ends it after its grace", instances::stop);
    t.add::<(), Done, _, _>(post.clone(), "/instances/{id}/restart", OPERATOR, "instance.restart", "Stops and starts it", instances::restart);
    t.add::<(), Done, _, _>(post.clone(), "/instances/{id}/pause", OPERATOR, "instance.pause", "Holds all its processes still", instances::pause);
    t.add::<(), Done, _, _>(post.clone(), "/instances/{id}/unpause", OPERATOR, "instance.unpause", "Lets them go on", instances::unpause);
    t.add::<(), Done, _, _>(post.clone(), "/instances/{id}/kill", OPERATOR, "instance.kill", "Ends it at once", instances::kill);
    t.add::<instances::Rename, Done, _, _>(post.clone(), "/instances/{id}/rename", OPERATOR, "instance.rename", "Gives it another name", instances::rename);
    t.add::<remake::Changes, instances::Created, _, _>(post.clone(), "/instances/{id}/clone", OPERATOR, "instance.clone", "Makes another instance from the same settings, with changes", remake::clone);
    t.add::<remake::Changes, crate::tasks::Task, _, _>(post.clone(), "/instances/{id}/recreate", OPERATOR, "instance.recreate", "Replaces it by one with the same settings and the changes; back to the old one where that fails", remake::recreate);
    t.add::<(), instances::WhyView, _, _>(get.clone(), "/instances/{id}/why", VIEWER, "", "Why it is in the state that it is in", instances::why);
    t.add::<(), create::CreateInstance, _, _>(get.clone(), "/instances/{id}/settings", OPERATOR, "", "Its settings as a wish for a new one", remake::settings);
    t.add::<(), instances::Processes, _, _>(get.clone(), "/instances/{id}/processes", VIEWER, "", "Its processes", instances::processes);
    t.add::<(), Vec<instances::ChangedFile>, _, _>(get.clone(), "/instances/{id}/changes", VIEWER, "", "What differs from its image", instances::changes);
    t.add::<(), crate::history::Series, _, _>(get.clone(), "/instances/{id}/meters", VIEWER, "", "One hour of its meters", instances::meters);
    t.add::<(), logs::LogPage, _, _>(get.clone(), "/instances/{id}/logs", VIEWER, "", "A page of its log: ?tail, ?before and ?after (cursors), ?since and ?until (milliseconds since 1970), ?search, ?stream", logs::page);
    t.add::<(), String, _, _>(get.clone(), "/instances/{id}/logs/text", VIEWER, "", "Its whole log as text", logs::download);
    t.add::<(), logs::LogLine, _, _>(get.clone(), "/instances/{id}/logs/follow", VIEWER, "", "WebSocket: lines as they are written", logs::follow);
    t.add::<(), (), _, _>(get.clone(), "/instances/{id}/terminal", OPERATOR, "instance.terminal", "WebSocket: a shell inside; bytes both ways, size as {\"rows\", \"columns\"}", streams::terminal);
    t.add::<(), crate::history::Reading, _, _>(get.clone(), "/instances/{id}/live", VIEWER, "", "WebSocket: its meters every second", streams::live);

    machines::add(&mut t);

    t.add::<(), Vec<images::ImageRow>, _, _>(get.clone(), "/images", VIEWER, "", "All images", images::list);
    t.add::<(), images::ImageDetail, _, _>(get.clone(), "/images/{id}", VIEWER, "", "An image's configuration and layers", images::inspect);
    t.add::<(), Done, _, _>(delete.clone(), "/images/{id}", OPERATOR, "image.remove", "Removes an image; ?force=true also where several names mean it", images::remove);
    t.add::<images::Bootstrap, crate::tasks::Task, _, _>(post.clone(), "/images/bootstrap", OPERATOR, "image.bootstrap", "Makes a base image from a distribution's packages, as a task", images::bootstrap);
    t.add::<images::Pull, crate::tasks::Task, _, _>(post.clone(), "/images/pull", OPERATOR, "image.pull", "Pulls an image from its registry, as a task", images::pull);
    t.add::<images::Tag, Done, _, _>(post.clone(), "/images/tag", OPERATOR, "image.tag", "Gives an image another name", images::tag);

    t.add::<(), Vec<volumes::VolumeRow>, _, _>(get.clone(), "/volumes", VIEWER, "", "All volumes with their users", volumes::list);
    t.add::<volumes::NewVolume, Done, _, _>(post.clone(), "/volumes", OPERATOR, "volume.create", "Makes a volume", volumes::create);
    t.add::<(), Done, _, _>(delete.clone(), "/volumes/{name}", OPERATOR, "volume.remove", "Removes a volume and its content", volumes::remove);

    t.add::<(), Vec<networks::NetworkRow>, _, _>(get.clone(), "/networks", VIEWER, "", "All networks and who is on them", networks::list);
    t.add::<networks::NewNetwork, Done, _, _>(post.clone(), "/networks", OPERATOR, "network.create", "Makes a network", networks::create);
    t.add::<(), Done, _, _>(delete.clone(), "/networks/{name}", OPERATOR, "network.remove", "Removes a network", networks::remove);
    t.add::<networks::Join, Done, _, _>(post.clone(), "/networks/{name}/join", OPERATOR, "network.join", "Lets an instance join a network", networks::join);
    t.add::<networks::Join, Done, _, _>(post.clone(), "/networks/{name}/leave", OPERATOR, "network.leave", "Lets an instance leave a network", networks::leave);

    t.add::<(), system::Overview, _, _>(get.clone(), "/overview", VIEWER, "", "The host and its hour, what fails and why", system::overview);
    t.add::<(), system::Disk, _, _>(get.clone(), "/disk", VIEWER, "", "What is on the disk and what would be freed", system::disk);
    t.add::<system::Prune, crate::tasks::Task, _, _>(post.clone(), "/prune", ADMIN, "prune", "Frees what nothing uses, as a task", system::prune);
    t.add::<(), Vec<system::Check>, _, _>(get.clone(), "/doctor", VIEWER, "", "What this host offers, and the fix for what it lacks", system::doctor);
    t.add::<(), system::Settings, _, _>(get.clone(), "/settings", VIEWER, "", "How the engine is set up", system::settings);
    t.add::<(), Vec<crate::tasks::Task>, _, _>(get.clone(), "/tasks", VIEWER, "", "Long actions: those that run and the newest that ended", system::tasks);
    t.add::<(), crate::tasks::Task, _, _>(get.clone(), "/tasks/{id}", VIEWER, "", "One long action", system::task);
    t.add::<(), Done, _, _>(delete.clone(), "/tasks/{id}", OPERATOR, "task.cancel", "Cancels a long action", system::cancel);
    t.add::<(), (), _, _>(get.clone(), "/events", VIEWER, "", "WebSocket: all changes as they happen", streams::events);

    t.add::<(), Vec<people::UserRow>, _, _>(get.clone(), "/users", ADMIN, "", "All users", people::users);
    t.add::<people::NewUser, Done, _, _>(post.clone(), "/users", ADMIN, "user.create", "Makes a user", people::add_user);
    t.add::<people::ChangeUser, Done, _, _>(patch, "/users/{name}", ADMIN, "user.change", "Changes a user's role or password; ends their sessions", people::change_user);
    t.add::<(), Done, _, _>(delete.clone(), "/users/{name}", ADMIN, "user.remove", "Removes a user with their tokens and sessions", people::remove_user);
    t.add::<(), Vec<people::TokenRow>, _, _>(get.clone(), "/tokens", VIEWER, "", "One's API tokens; everybody's for an administrator", people::tokens);
    t.add::<people::NewToken, people::TokenSecret, _, _>(post, "/tokens", VIEWER, "token.create", "Makes an API token; its secret is shown once", people::add_token);
    t.add::<(), Done, _, _>(delete, "/tokens/{id}", VIEWER, "token.remove", "Removes an API token", people::remove_token);
    t.add::<(), Vec<crate::audit::AuditEntry>, _, _>(get, "/audit", ADMIN, "", "Who changed what, newest first: ?before (number), ?search", people::audit);
    t
}

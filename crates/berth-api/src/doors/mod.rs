//! The handlers, by what they are about, and the table of their routes.

pub(crate) mod account;
pub(crate) mod backups;
pub(crate) mod builds;
pub(crate) mod create;
pub(crate) mod files;
pub(crate) mod hosts;
pub(crate) mod images;
pub(crate) mod instances;
pub(crate) mod kernels;
pub(crate) mod logs;
mod machine_bodies;
mod machine_display;
mod machine_export;
mod machine_serial;
pub(crate) mod machines;
pub(crate) mod networks;
pub(crate) mod notes;
pub(crate) mod oidc;
pub(crate) mod people;
mod project_contents;
pub(crate) mod projects;
pub(crate) mod remake;
pub(crate) mod render;
pub(crate) mod saved;
pub(crate) mod schedules;
pub(crate) mod stacks;
pub(crate) mod streams;
pub(crate) mod system;
pub(crate) mod updates;
pub(crate) mod uploads;
pub(crate) mod volumes;

use crate::routes::{ADMIN, Access, OPERATOR, SIGNED_IN, SOME_OPERATOR, SOME_VIEWER, Table, VIEWER};
use crate::schema::answers;
use axum::http::Method;
use serde_json::Value;

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
    let (get, post, put, patch, delete) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);

    t.add::<(), account::Entry, _, _>(get.clone(), "/entry", Access::Public, "", "Whether the first administrator must be made", account::entry);
    t.add::<account::SetUp, account::SessionView, _, _>(post.clone(), "/setup", Access::Public, "", "Makes an administrator with the one-time set-up token and signs in", account::set_up);
    t.add::<account::SignIn, account::SessionView, _, _>(post.clone(), "/session", Access::Public, "", "Signs in; answers a cookie", account::sign_in);
    t.add::<(), account::SessionView, _, _>(get.clone(), "/session", SIGNED_IN, "", "Who is signed in", account::session);
    t.add::<(), Done, _, _>(delete.clone(), "/session", SIGNED_IN, "session.end", "Signs out", account::sign_out);
    t.add::<account::NewPassword, Done, _, _>(post.clone(), "/session/password", SIGNED_IN, "session.password", "Changes one's own password", account::password);

    t.add::<(), (), _, _>(get.clone(), "/oidc/start", Access::Public, "", "Sends the browser to the provider", oidc::start);
    t.add::<(), (), _, _>(get.clone(), "/oidc/return", Access::Public, "", "Where the provider sends the browser back to: ?code, ?state", oidc::back);
    t.add::<(), Option<oidc::OidcView>, _, _>(get.clone(), "/oidc", ADMIN, "", "The provider that people sign in by", oidc::settings);
    t.add::<oidc::OidcWish, Done, _, _>(put.clone(), "/oidc", ADMIN, "oidc.change", "Sets the provider, or none", oidc::put);
    t.add::<account::BeginTotp, account::TotpBegun, _, _>(post.clone(), "/session/totp", SIGNED_IN, "session.totp.begin", "Begins to set a second factor up", account::begin_totp);
    t.add::<account::ConfirmTotp, account::TotpOn, _, _>(post.clone(), "/session/totp/confirm", SIGNED_IN, "session.totp.on", "Turns the second factor on with its first code", account::confirm_totp);
    t.add::<account::EndTotp, Done, _, _>(post.clone(), "/session/totp/off", SIGNED_IN, "session.totp.off", "Turns the second factor off", account::end_totp);

    t.add::<(), Vec<instances::Instance>, _, _>(get.clone(), "/instances", SOME_VIEWER, "", "All instances", instances::list);
    t.add::<create::CreateInstance, instances::Created, _, _>(post.clone(), "/instances", SOME_OPERATOR, "instance.create", "Makes an instance, and starts it where asked", create::create);
    t.add::<create::CreateInstance, render::Texts, _, _>(post.clone(), "/instances/preview", SOME_VIEWER, "", "The same wish as a command, as a call of this API and as compose text", create::preview);
    t.add::<instances::Bulk, crate::tasks::Task, _, _>(post.clone(), "/instances/bulk", SOME_OPERATOR, "instances.bulk", "Does one thing to many instances, as a task", instances::bulk);
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
    t.add::<(), Vec<saved::SavedRow>, _, _>(get.clone(), "/instances/{id}/snapshots", VIEWER, "", "Its snapshots, newest first: images of what its files were", saved::list);
    t.add::<saved::NewSaved, Done, _, _>(post.clone(), "/instances/{id}/snapshots", OPERATOR, "instance.snapshot", "Makes an image of its files as they are now", saved::create);
    t.add::<(), Option<schedules::ScheduleRow>, _, _>(get.clone(), "/instances/{id}/schedule", VIEWER, "", "When a snapshot of it is taken by itself", schedules::of_instance);
    t.add::<schedules::NewSchedule, Done, _, _>(put.clone(), "/instances/{id}/schedule", OPERATOR, "instance.schedule", "Takes a snapshot of an instance or machine from a time on, again and again", schedules::put_of_instance);
    t.add::<(), Done, _, _>(delete.clone(), "/instances/{id}/schedule", OPERATOR, "instance.schedule.remove", "Ends that; the snapshots stay", schedules::remove_of_instance);
    t.add::<(), notes::NoteView, _, _>(get.clone(), "/instances/{id}/note", VIEWER, "", "What people want to know about an instance or machine", notes::get);
    t.add::<notes::NewNote, Done, _, _>(put.clone(), "/instances/{id}/note", OPERATOR, "instance.note", "Writes that down; an empty text removes it", notes::put);
    t.add::<remake::Changes, crate::tasks::Task, _, _>(post.clone(), "/instances/{id}/recreate", OPERATOR, "instance.recreate", "Replaces it by one with the same settings and the changes; back to the old one where that fails", remake::recreate);
    t.add::<(), crate::tasks::Task, _, _>(post.clone(), "/instances/{id}/upgrade", OPERATOR, "instance.upgrade", "Gets the newest image of its name and replaces it by one made from that, as a task; back to the old one where the new one is not well", updates::upgrade);
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

    t.add::<(), files::FolderView, _, _>(get.clone(), "/instances/{id}/files", OPERATOR, "", "What is in a folder of it: ?path", files::folder);
    t.add::<(), (), _, _>(get.clone(), "/instances/{id}/files/content", OPERATOR, "instance.files.read", "A file as it is, a folder as a tar archive: ?path", files::content);
    t.upload::<files::Uploaded, _, _>(put.clone(), "/instances/{id}/files/content", OPERATOR, "instance.files.write", "Writes a file, new or in place of what is there: ?path; the body is its content", files::upload);
    t.add::<files::NewFolder, Done, _, _>(post.clone(), "/instances/{id}/files", OPERATOR, "instance.files.folder", "Makes a folder", files::make_folder);
    t.add::<(), Done, _, _>(delete.clone(), "/instances/{id}/files", OPERATOR, "instance.files.remove", "Removes a file, or a folder with all that is in it: ?path", files::remove);

    t.add::<(), Vec<uploads::UploadRow>, _, _>(get.clone(), "/uploads", SOME_OPERATOR, "", "Disk images and ISOs that one has sent, newest first; everybody's for an administrator", uploads::list);
    t.add::<uploads::NewUpload, uploads::UploadRow, _, _>(post.clone(), "/uploads", SOME_OPERATOR, "upload.create", "Makes room for a disk image or ISO that is to be sent", uploads::begin);
    t.add::<(), uploads::UploadRow, _, _>(get.clone(), "/uploads/{id}", SOME_OPERATOR, "", "How much of it is here", uploads::inspect);
    t.upload::<uploads::UploadRow, _, _>(put.clone(), "/uploads/{id}", SOME_OPERATOR, "", "The next part of it: ?offset, which is what was received so far. The last one answers what it is; what is no image is refused and removed", uploads::part);
    t.add::<(), Done, _, _>(delete.clone(), "/uploads/{id}", SOME_OPERATOR, "upload.remove", "Removes it; machines that were made from it go on", uploads::remove);
    machines::add(&mut t);
    kernels::add(&mut t);

    t.add::<(), Vec<stacks::StackRow>, _, _>(get.clone(), "/stacks", SOME_VIEWER, "", "All stacks: those put up here, and those that docker compose made", stacks::list);
    t.add::<(), Done, _, _>(get.clone(), "/stacks/ready", SOME_VIEWER, "", "Whether the compose plugin is there", stacks::ready);
    t.add::<stacks::CheckStack, stacks::StackCheck, _, _>(post.clone(), "/stacks/check", SOME_OPERATOR, "", "What a compose file means, and whether one may put it up", stacks::check);
    t.add::<stacks::ReadGit, stacks::GitText, _, _>(post.clone(), "/stacks/git", SOME_OPERATOR, "stack.git.read", "Reads a compose file out of a git repository", stacks::read_git);
    t.add::<(), stacks::StackDetail, _, _>(get.clone(), "/stacks/{name}", SOME_VIEWER, "", "A stack and its compose file", stacks::inspect);
    t.add::<stacks::PutStack, crate::tasks::Task, _, _>(put.clone(), "/stacks/{name}", SOME_OPERATOR, "stack.put", "Puts a compose file up, new or changed, as a task", stacks::put);
    t.add::<stacks::ActOnStack, crate::tasks::Task, _, _>(post.clone(), "/stacks/{name}/act", SOME_OPERATOR, "stack.act", "Starts, stops, restarts, pulls or scales a stack or a service of it, as a task", stacks::act);
    t.add::<(), crate::tasks::Task, _, _>(delete.clone(), "/stacks/{name}", SOME_OPERATOR, "stack.remove", "Takes a stack down and forgets its text, as a task; ?volumes=true removes its volumes too", stacks::remove);

    t.add::<(), hosts::Summary, _, _>(get.clone(), "/summary", VIEWER, "", "How this engine is", hosts::summary);
    t.add::<(), Vec<hosts::HostRow>, _, _>(get.clone(), "/hosts", VIEWER, "", "This engine and the others that it knows", hosts::list);
    t.add::<hosts::NewHost, Done, _, _>(post.clone(), "/hosts", ADMIN, "host.add", "Makes another engine known", hosts::add);
    t.add::<(), hosts::Placement, _, _>(get.clone(), "/hosts/place", VIEWER, "", "The host with most free memory", hosts::place);
    t.add::<(), Done, _, _>(delete.clone(), "/hosts/{host}", ADMIN, "host.remove", "Forgets another engine; its instances go on", hosts::remove);
    t.add::<(), (), _, _>(post.clone(), "/hosts/{host}/dial", ADMIN, "host.dial", "A raw stream to another engine's Docker API: Upgrade: tcp", hosts::dial_host);
    t.add::<(), (), _, _>(post.clone(), "/dial", ADMIN, "dial", "A raw stream to this engine's Docker API: Upgrade: tcp", hosts::dial);
    t.add::<(), Value, _, _>(get.clone(), "/hosts/{host}/api/{*path}", VIEWER, "", "The same call there, streams too; with the caller's role here at most", hosts::pass_on);
    for method in [&post, &put, &patch, &delete] {
        t.upload::<Value, _, _>(method.clone(), "/hosts/{host}/api/{*path}", VIEWER, "host.call", "The same call there; with the caller's role here at most", hosts::pass_on);
    }

    t.add::<(), Vec<images::ImageRow>, _, _>(get.clone(), "/images", SOME_VIEWER, "", "All images", images::list);
    t.add::<(), images::ImageDetail, _, _>(get.clone(), "/images/{id}", SOME_VIEWER, "", "An image's configuration and layers", images::inspect);
    t.add::<(), Done, _, _>(delete.clone(), "/images/{id}", OPERATOR, "image.remove", "Removes an image; ?force=true also where several names mean it", images::remove);
    t.add::<images::Bootstrap, crate::tasks::Task, _, _>(post.clone(), "/images/bootstrap", SOME_OPERATOR, "image.bootstrap", "Makes a base image from a distribution's packages, as a task", images::bootstrap);
    t.add::<images::Pull, crate::tasks::Task, _, _>(post.clone(), "/images/pull", SOME_OPERATOR, "image.pull", "Pulls an image from its registry, as a task", images::pull);
    t.add::<images::Tag, Done, _, _>(post.clone(), "/images/tag", OPERATOR, "image.tag", "Gives an image another name", images::tag);

    t.add::<(), updates::UpdatesView, _, _>(get.clone(), "/updates", SOME_VIEWER, "", "Images of which a newer one is there, and the instances made from the older", updates::list);
    t.add::<(), crate::tasks::Task, _, _>(post.clone(), "/updates", SOME_OPERATOR, "images.ask", "Asks the registries of all images that instances are made from, as a task", updates::ask);
    t.add::<updates::UpdatesPlan, Done, _, _>(put.clone(), "/updates", ADMIN, "images.ask.plan", "Says how often that is done by itself", updates::plan);

    // Steps run on the network where those are that are in no project: not for members of projects.
    t.add::<(), Vec<crate::builds::BuildRow>, _, _>(get.clone(), "/builds", VIEWER, "", "Builds that were asked for here, newest first", builds::list);
    t.add::<builds::NewBuild, crate::tasks::Task, _, _>(post.clone(), "/builds", OPERATOR, "image.build", "Builds an image from a Dockerfile without files of its own, as a task", builds::build);
    t.upload::<crate::tasks::Task, _, _>(put.clone(), "/builds", OPERATOR, "image.build.files", "The same with files: the body is a tar archive; ?name, ?dockerfile, ?target, ?build_args (JSON), ?no_cache, ?pull", builds::build_files);
    t.add::<(), crate::builds::BuildDetail, _, _>(get.clone(), "/builds/{id}", VIEWER, "", "A build's steps and what they said; the number is its task's", builds::inspect);
    t.add::<(), Vec<builds::BuildCacheRow>, _, _>(get.clone(), "/build-cache", VIEWER, "", "What steps of builds came to, last used first", builds::cache);
    t.add::<builds::PruneBuildCache, crate::tasks::Task, _, _>(post.clone(), "/build-cache/prune", OPERATOR, "build.cache.prune", "Frees what of it no image needs, as a task", builds::prune_cache);

    t.add::<(), Vec<volumes::VolumeRow>, _, _>(get.clone(), "/volumes", SOME_VIEWER, "", "All volumes with their users", volumes::list);
    t.add::<volumes::NewVolume, Done, _, _>(post.clone(), "/volumes", SOME_OPERATOR, "volume.create", "Makes a volume", volumes::create);
    t.add::<(), Done, _, _>(delete.clone(), "/volumes/{name}", OPERATOR, "volume.remove", "Removes a volume and its content", volumes::remove);
    t.add::<(), Vec<volumes::VolumeSize>, _, _>(get.clone(), "/volume-sizes", SOME_VIEWER, "", "What volumes take on the disk", volumes::sizes);
    t.add::<(), Vec<volumes::BackupRow>, _, _>(get.clone(), "/backups", SOME_VIEWER, "", "Backups of all volumes, newest first", backups::list);
    t.add::<volumes::NewBackup, crate::tasks::Task, _, _>(post.clone(), "/volumes/{name}/backups", OPERATOR, "volume.backup", "Copies a volume, as a task", backups::create);
    t.upload::<Done, _, _>(put.clone(), "/volumes/{name}/backups", OPERATOR, "volume.backup.upload", "Keeps a tar archive (plain, gzip, zstd) as a backup of a volume", backups::upload);
    t.add::<volumes::Restore, crate::tasks::Task, _, _>(post.clone(), "/volumes/{name}/backups/{id}/restore", OPERATOR, "volume.restore", "Puts a backup into its volume or another, as a task", backups::restore);
    t.add::<(), (), _, _>(get.clone(), "/volumes/{name}/backups/{id}/content", OPERATOR, "volume.backup.read", "The backup as a tar archive (zstd)", backups::content);
    t.add::<(), Done, _, _>(delete.clone(), "/volumes/{name}/backups/{id}", OPERATOR, "volume.backup.remove", "Removes a backup", backups::remove);

    t.add::<(), Vec<schedules::ScheduleRow>, _, _>(get.clone(), "/schedules", SOME_VIEWER, "", "When volumes are backed up, and snapshots of instances taken, by themselves", schedules::list);
    t.add::<schedules::NewSchedule, Done, _, _>(put.clone(), "/volumes/{name}/schedule", OPERATOR, "volume.schedule", "Backs a volume up from a time on, again and again", schedules::put);
    t.add::<(), Done, _, _>(delete.clone(), "/volumes/{name}/schedule", OPERATOR, "volume.schedule.remove", "Ends that; the backups stay", schedules::remove);

    t.add::<(), Vec<networks::NetworkRow>, _, _>(get.clone(), "/networks", SOME_VIEWER, "", "All networks and who is on them", networks::list);
    t.add::<networks::NewNetwork, Done, _, _>(post.clone(), "/networks", SOME_OPERATOR, "network.create", "Makes a network", networks::create);
    t.add::<(), Done, _, _>(delete.clone(), "/networks/{name}", OPERATOR, "network.remove", "Removes a network", networks::remove);
    t.add::<networks::Join, Done, _, _>(post.clone(), "/networks/{name}/join", OPERATOR, "network.join", "Lets an instance join a network", networks::join);
    t.add::<networks::Join, Done, _, _>(post.clone(), "/networks/{name}/leave", OPERATOR, "network.leave", "Lets an instance leave a network", networks::leave);

    t.add::<(), system::Overview, _, _>(get.clone(), "/overview", SOME_VIEWER, "", "The host and its hour, what fails and why", system::overview);
    t.add::<(), system::Disk, _, _>(get.clone(), "/disk", VIEWER, "", "What is on the disk and what would be freed", system::disk);
    t.add::<system::Prune, crate::tasks::Task, _, _>(post.clone(), "/prune", ADMIN, "prune", "Frees what nothing uses, as a task", system::prune);
    t.add::<(), Vec<system::Check>, _, _>(get.clone(), "/doctor", VIEWER, "", "What this host offers, and the fix for what it lacks", system::doctor);
    t.add::<(), system::Settings, _, _>(get.clone(), "/settings", VIEWER, "", "How the engine is set up", system::settings);
    system::add_tasks(&mut t);
    t.add::<(), (), _, _>(get.clone(), "/events", SOME_VIEWER, "", "WebSocket: all changes as they happen", streams::events);

    t.add::<(), Vec<projects::ProjectRow>, _, _>(get.clone(), "/projects", SIGNED_IN, "", "The projects that one sees, with their quotas and what of them is used", projects::list);
    t.add::<projects::NewProject, Done, _, _>(post.clone(), "/projects", ADMIN, "project.create", "Makes a project with a network of its name", projects::create);
    t.add::<projects::ChangeProject, Done, _, _>(patch.clone(), "/projects/{name}", ADMIN, "project.change", "Changes a project's members and quota", projects::change);
    t.add::<(), crate::tasks::Task, _, _>(delete.clone(), "/projects/{name}", ADMIN, "project.remove", "Removes a project that has no instances, as a task; ?contents says what becomes of what else is in it: remove or keep", project_contents::remove);
    t.add::<(), project_contents::ProjectContents, _, _>(get.clone(), "/projects/{name}/contents", ADMIN, "", "What is in a project", project_contents::inspect);

    t.add::<(), Vec<people::UserRow>, _, _>(get.clone(), "/users", ADMIN, "", "All users", people::users);
    t.add::<people::NewUser, Done, _, _>(post.clone(), "/users", ADMIN, "user.create", "Makes a user", people::add_user);
    t.add::<people::ChangeUser, Done, _, _>(patch, "/users/{name}", ADMIN, "user.change", "Changes a user's role or password; ends their sessions", people::change_user);
    t.add::<(), Done, _, _>(delete.clone(), "/users/{name}", ADMIN, "user.remove", "Removes a user with their tokens and sessions", people::remove_user);
    t.add::<(), Vec<people::TokenRow>, _, _>(get.clone(), "/tokens", SIGNED_IN, "", "One's API tokens; everybody's for an administrator", people::tokens);
    t.add::<people::NewToken, people::TokenSecret, _, _>(post, "/tokens", SIGNED_IN, "token.create", "Makes an API token; its secret is shown once", people::add_token);
    t.add::<(), Done, _, _>(delete, "/tokens/{id}", SIGNED_IN, "token.remove", "Removes an API token", people::remove_token);
    t.add::<(), Vec<crate::audit::AuditEntry>, _, _>(get, "/audit", ADMIN, "", "Who changed what, newest first: ?before (number), ?search", people::audit);
    t
}

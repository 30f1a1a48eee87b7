//! Tests: what ends by the clock ends everywhere at once. The clock is not moved; what was made grows older.

use super::*;

const PASSWORD: &str = "long enough";

async fn with_user(role: Role) -> (tempfile::TempDir, Identity) {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::open(folder.path()).unwrap();
    identity.add_user("bob", role, PASSWORD.into()).await.unwrap();
    (folder, identity)
}

#[tokio::test]
async fn a_session_that_was_not_used_or_is_old_ends_with_its_streams_and_another_is_not_touched() {
    for (idle, age) in [(SESSION_IDLE_SECONDS, SESSION_IDLE_SECONDS), (0, SESSION_SECONDS_MAX)] {
        let (_folder, identity) = with_user(Role::Operator).await;
        let old = identity.sign_in("bob", "::1").await.unwrap();
        let fresh = identity.sign_in("bob", "::1").await.unwrap();
        let stream = identity.by_session(&old.secret).unwrap();
        {
            let mut state = identity.write();
            let session = state.sessions.get_mut(&digest(&old.secret)).unwrap();
            session.used_unix -= idle;
            session.created_unix -= age;
        }
        assert!(identity.by_session(&old.secret).is_none(), "idle {idle}, old {age}");
        assert!(!identity.still_holds(&stream), "a terminal that is open ends too");
        assert!(identity.by_session(&fresh.secret).is_some());
        identity.sweep().unwrap();
        assert_eq!(identity.read().sessions.len(), 1, "nothing of it is kept");
    }
}

#[tokio::test]
async fn a_token_ends_on_its_day_with_its_streams() {
    let (folder, identity) = with_user(Role::Operator).await;
    let bob = identity.sign_in("bob", "::1").await.unwrap().who;
    let (id, secret) = identity.add_token(&bob, "ci", Role::Viewer, None, 1).await.unwrap();
    let stream = identity.by_token(&secret).unwrap();
    assert!(identity.still_holds(&stream));
    let age = |seconds: i64| {
        let mut state = identity.write();
        let token = state.tokens.get_mut(&id).unwrap();
        token.expires_unix -= seconds;
        token.clone()
    };
    age(24 * 3600 - 60);
    assert!(identity.by_token(&secret).is_some(), "a minute before");
    let over = age(60);
    assert!(identity.by_token(&secret).is_none(), "on the second");
    assert!(!identity.still_holds(&stream));
    // Also for an engine that was down meanwhile.
    let mut batch = Batch::new();
    batch.put("tokens", &id, &over).unwrap();
    identity.commit(batch).await.unwrap();
    drop(identity);
    assert!(Identity::open(folder.path()).unwrap().by_token(&secret).is_none());
}

#[tokio::test]
async fn a_later_set_up_token_is_good_for_a_quarter_of_an_hour() {
    let (_folder, identity) = with_user(Role::Admin).await;
    let token = identity.new_setup_token().unwrap();
    identity.setup.lock().unwrap().as_mut().unwrap().expires_unix = Some(now_unix());
    assert!(identity.set_up(&token, "eve", PASSWORD.into()).await.is_err());
    let token = identity.new_setup_token().unwrap();
    identity.setup.lock().unwrap().as_mut().unwrap().expires_unix = Some(now_unix() + 60);
    identity.set_up(&token, "eve", PASSWORD.into()).await.unwrap();
}

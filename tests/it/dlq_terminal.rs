//! What commands do on a terminal and only there: a bar while they read, a question before what is final, a pager for
//! what is long.

use crate::support::{Rig, config::ConfigFile, letters::Letter, terminal::Terminal};

async fn rig(name: &str, letters: usize) -> (Rig, ConfigFile) {
    let rig = Rig::new(name, 1).await;
    rig.cluster.create_topic(&rig.dead(), 1, &[]).await;
    let letter = |n| Letter::new(&rig.dead(), &format!("msg_{n}")).record();
    let records: Vec<_> = (0..letters).map(letter).collect();
    rig.cluster.produce(&records).await;
    let config = rig.config().write();
    (rig, config)
}

fn start(config: &ConfigFile, arguments: &[&str], env: &[(&str, &str)]) -> Terminal {
    let path = config.path();
    Terminal::start(&[&["dlq", "--config", path.to_str().unwrap()], arguments].concat(), env)
}

#[tokio::test]
async fn a_bar_says_how_far_it_is_and_makes_room_for_the_answer() {
    let (_rig, config) = rig("terminal-bar", 3_000).await;
    let mut terminal = start(&config, &["list", "--id", "msg_7"], &[("PAGER", "")]);
    let (code, shown) = terminal.end().await;
    assert_eq!(code, 0, "{shown}");
    for part in ["512 read", "%", " left"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    // The bar is wiped out (ESC [2K) before the table is printed.
    let (bar, table) = shown.split_at(shown.rfind("DIED").unwrap());
    assert!(bar.contains("\x1b[2K") && table.contains("msg_7"), "{shown:?}");
    assert!(!table.contains(" left"), "{shown:?}");
}

#[tokio::test]
async fn what_is_final_is_asked_first() {
    let (rig, config) = rig("terminal-ask", 3).await;
    let purge = ["purge", "--everything", "--force"];
    for (answer, code, said, left) in [
        ("n\r", 1, "nothing was removed", 3),
        ("\x04", 1, "nothing was removed", 3),
        ("y\r", 0, "3 letters removed", 0),
    ] {
        let mut terminal = start(&config, &purge, &[]);
        terminal.wait_for(&format!("Remove 3 letters of {} for good? [y/N] ", rig.dead())).await;
        assert_eq!(rig.cluster.read(&rig.dead()).await.len(), 3, "asked first");
        terminal.type_in(answer);
        let (ended, shown) = terminal.end().await;
        assert_eq!(ended, code, "{answer:?}: {shown}");
        assert!(shown.contains(said), "{answer:?}: {shown}");
        assert_eq!(rig.cluster.read(&rig.dead()).await.len(), left, "{answer:?}");
    }
}

#[tokio::test]
async fn long_text_goes_through_the_pager() {
    let (_rig, config) = rig("terminal-pager", 2).await;
    let mut terminal = start(&config, &["list"], &[("PAGER", "sed 's/^/paged: /'"), ("NO_COLOR", "1")]);
    let (code, shown) = terminal.end().await;
    assert_eq!(code, 0, "{shown}");
    assert_eq!(shown.matches("paged: ").count(), 3, "{shown}");
    assert!(shown.contains("paged: DIED"), "{shown}");
    // A pager that is not there is no reason to show nothing.
    let mut terminal = start(&config, &["list"], &[("PAGER", "no-such-pager"), ("NO_COLOR", "1")]);
    let (code, shown) = terminal.end().await;
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("\nDIED"), "{shown:?}");
}

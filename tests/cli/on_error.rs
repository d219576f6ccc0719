//! What a RUN step that fails leaves: nothing, a shell, an image.

use crate::kit::Kit;
use crate::kit::running::Terminal;

/// A build whose last command writes something and fails.
const DOCKERFILE: &str = "FROM fixture/base
ENV WHERE=env
WORKDIR /work
RUN echo before > /before
USER app
RUN --mount=type=cache,target=/cache,uid=1000 echo left > /tmp/left; echo cached > /cache/kept; exit 7
";

#[test]
fn nothing_is_left_unless_it_was_asked_for() {
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE).build().fails(4);
    assert!(!kit.builder(["images"]).ok().stdout().contains("failed"));
}

#[test]
fn kept_files_are_an_image_that_is_listed_entered_and_removed() {
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    let outcome = kit.build().arg("--on-error=keep").fails(4);
    outcome.says(&["exit code: 7", "builder run -it failed:", "builder rmi failed:"]);
    let text = outcome.text().to_owned();
    let at = text.find("failed:").expect("a name");
    let name = text[at..].split_whitespace().next().expect("a name");
    assert!(kit.builder(["images"]).ok().stdout().contains("failed"));
    let script =
        "cat /before /tmp/left; echo $WHERE $(pwd) $(id -un); test -e /cache || echo no cache";
    let seen = kit.builder(["run", name, "sh", "-c", script]).ok().stdout();
    assert_eq!(seen, "before\nleft\nenv /work app\nno cache\n");
    kit.builder(["rmi", name]).ok();
    assert!(!kit.builder(["images"]).ok().stdout().contains("failed"));
}

#[test]
fn privileged_a_shell_opens_where_the_command_failed() {
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    let terminal = Terminal::new(40, 200);
    let mut running = terminal.start(kit.build_showing("plain").arg("--on-error=shell"));
    running.expect("exit code: 7");
    running.expect("a shell where it failed");
    terminal.type_in("cat /before /tmp/left /cache/kept; echo $WHERE $(pwd) $(id -un)\n");
    running.expect("before\r\nleft\r\ncached\r\nenv /work app\r\n");
    terminal.type_in("exit 0\n");
    assert_eq!(running.end().code(), Some(4));
    assert!(!kit.builder(["images"]).ok().stdout().contains("failed"));
}

#[test]
fn a_shell_without_a_terminal_is_refused() {
    let kit = Kit::new();
    kit.dockerfile(DOCKERFILE);
    kit.build().arg("--on-error=shell").fails(2).says(&["terminal", "--on-error=keep"]);
}

#[test]
fn what_ran_before_a_failure_need_not_run_again() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN head -c 50m /dev/urandom > /big\nRUN false\n");
    kit.build().fails(4);
    kit.dockerfile("FROM fixture/base\nRUN head -c 50m /dev/urandom > /big\nRUN true\n");
    let counts = kit.build().ok().counts();
    assert_eq!((counts.ran, counts.cached), (1, 1));
}

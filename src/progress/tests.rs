use super::*;
use std::sync::mpsc;

/// Shares what is written with the test.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn step(name: &str) -> Vertex {
    Vertex::step(Digest::of(name.as_bytes()), Vec::new(), name)
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap()
}

/// Renders events at given times, flushing after each.
fn plain(events: Vec<(f64, Event)>) -> String {
    let out = Shared::default();
    let mut renderer = plain::Plain::new(Box::new(out.clone()));
    let mut last = at(0.0);
    for (time, event) in events {
        last = at(time);
        renderer.take(last, event);
        renderer.flush(last);
    }
    renderer.finish(last);
    out.text()
}

fn log(vertex: &Vertex, text: &str) -> Event {
    Event::Log { vertex: vertex.digest, stream: Stream::Stdout, data: text.as_bytes().to_vec() }
}

fn done(vertex: &Vertex, outcome: Outcome) -> Event {
    Event::VertexDone { vertex: vertex.digest, outcome }
}

#[test]
fn plain_lines_are_those_of_buildkit() {
    let load = Vertex::internal("[internal] load build definition");
    let (make, copy, fail) = (step("[1/3] RUN make"), step("[2/3] COPY a b"), step("[3/3] RUN x"));
    let text = plain(vec![
        (0.0, Event::VertexStarted(load.clone())),
        (0.0, done(&load, Outcome::Ran)),
        (1.0, Event::VertexStarted(make.clone())),
        (1.123, log(&make, "cc -c a.c\n\x1b[31mwarn\x1b[0m\npart")),
        (1.2, log(&make, "ial\n")),
        (1.4, done(&make, Outcome::Ran)),
        (1.4, Event::VertexStarted(copy.clone())),
        (1.4, done(&copy, Outcome::Cached)),
        (1.4, Event::VertexStarted(fail.clone())),
        (16.4, log(&fail, "no newline")),
        (16.4, done(&fail, Outcome::Failed("exit code: 1".to_owned()))),
        (16.5, Event::Notice { vertex: None, text: "using the host's network".to_owned() }),
    ]);
    assert_eq!(
        text,
        "\
#1 [internal] load build definition
#1 DONE 0.0s

#2 [1/3] RUN make
#2 0.123 cc -c a.c
#2 0.123 warn
#2 0.123 partial
#2 DONE 0.4s

#3 [2/3] COPY a b
#3 CACHED

#4 [3/3] RUN x
#4 15.00 no newline
#4 ERROR: exit code: 1

WARN: using the host's network
"
    );
}

#[test]
fn plain_steps_side_by_side_print_in_turns() {
    let (a, b) = (step("[a 1/1] RUN a"), step("[b 1/1] RUN b"));
    let text = plain(vec![
        (0.0, Event::VertexStarted(a.clone())),
        (0.0, Event::VertexStarted(b.clone())),
        (0.1, log(&a, "a1\n")),
        (0.2, log(&b, "b1\n")),
        (0.3, log(&a, "a2\n")),
        (0.4, log(&b, "b2\n")),
        (0.5, done(&b, Outcome::Ran)),
        (0.6, log(&a, "a3\n")),
        (0.7, done(&a, Outcome::Ran)),
    ]);
    assert_eq!(
        text,
        "\
#1 [a 1/1] RUN a
#1 0.100 a1
#1 0.300 a2
#1 ...

#2 [b 1/1] RUN b
#2 0.200 b1
#2 0.400 b2
#2 DONE 0.5s

#1 [a 1/1] RUN a
#1 0.600 a3
#1 DONE 0.7s
"
    );
}

#[test]
fn plain_gives_a_waiting_step_its_turn_and_shows_a_prompt() {
    let (a, b) = (step("a"), step("b"));
    let text = plain(vec![
        (0.0, Event::VertexStarted(a.clone())),
        (0.0, Event::VertexStarted(b.clone())),
        (0.5, log(&b, "held back\n")),
        (1.0, log(&a, "Continue? ")),
        (6.0, log(&b, "later\n")),
    ]);
    assert!(text.contains("#1 1.000 Continue? \n#1 ...\n\n#2 b\n#2 0.500 held back\n"), "{text}");
    assert!(text.ends_with("#2 6.000 later\n"), "{text}");
}

#[test]
fn plain_statuses_are_sparse() {
    let pull = step("pull");
    let status = |current, is_done| Event::Status {
        vertex: pull.digest,
        id: "layer".to_owned(),
        current,
        total: Some(1000 * 1000),
        is_done,
    };
    let text = plain(vec![
        (0.0, Event::VertexStarted(pull.clone())),
        (0.0, status(1, false)),
        (0.1, status(2, false)),
        (0.2, status(500_000, false)),
        (0.5, status(1_000_000, true)),
    ]);
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "#1 layer 1B / 1.00MB",
            "#1 layer 500.00kB / 1.00MB 0.2s",
            "#1 layer 1.00MB / 1.00MB 0.5s done"
        ]
    );
}

#[test]
fn rawjson_is_read_back_as_buildkit_writes_it() {
    let out = Shared::default();
    let progress = Progress::new(Mode::RawJson, Output::to(out.clone()), at(1.0));
    let (a, b) = (step("[1/2] RUN a"), step("[2/2] RUN b"));
    progress.cached(a.clone());
    progress.started(Vertex { inputs: vec![a.digest], ..b.clone() });
    progress.log(b.digest, Stream::Stderr, b"foo");
    progress.emit(Event::Warning(Warning {
        vertex: Some(b.digest),
        level: 1,
        short: "bad".to_owned(),
        detail: vec!["why".to_owned()],
        url: None,
        source: Some(Source { filename: "Dockerfile".to_owned(), text: "RUN".to_owned() }),
        lines: vec![(2, 3)],
    }));
    progress.done(b.digest, Outcome::Failed("exit code: 2".to_owned()));
    progress.finish();
    let lines: Vec<serde_json::Value> =
        out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    let done = &lines[1]["vertexes"][0];
    assert_eq!(done["digest"], a.digest.to_string());
    assert_eq!(done["name"], "[1/2] RUN a");
    assert_eq!(done["cached"], true);
    assert!(done["completed"].as_str().unwrap().starts_with("1970-01-01T00:00:01"));
    assert_eq!(lines[2]["vertexes"][0]["inputs"][0], a.digest.to_string());
    assert_eq!(lines[3]["logs"][0]["data"], "Zm9v");
    assert_eq!(lines[3]["logs"][0]["stream"], 2);
    assert_eq!(lines[4]["warnings"][0]["range"][0]["start"]["line"], 2);
    assert_eq!(lines[5]["vertexes"][0]["error"], "exit code: 2");
    assert!(lines[5]["vertexes"][0].get("cached").is_none());
}

#[test]
fn the_last_lines_of_a_failed_step_are_known_in_quiet_mode() {
    let progress = Progress::quiet();
    let (a, b) = (step("a"), step("b"));
    progress.started(a.clone());
    progress.started(b.clone());
    progress.log(a.digest, Stream::Stdout, b"one\ntwo\nthree\n");
    progress.log(b.digest, Stream::Stdout, b"fine\n");
    progress.done(a.digest, Outcome::Failed(String::new()));
    progress.done(b.digest, Outcome::Ran);
    assert_eq!(progress.last_lines(&a.digest, 2), ["two", "three"]);
    assert!(progress.last_lines(&b.digest, 2).is_empty());
    assert_eq!(progress.counts(), Counts { ran: 1, failed: 1, ..Counts::default() });
}

#[test]
fn a_tty_build_that_is_over_at_once_is_never_drawn() {
    let out = Shared::default();
    let output = Output {
        writer: Box::new(out.clone()),
        size: Some(Box::new(|| (24, 40))),
        is_coloured: false,
        looks: Looks::default(),
    };
    let progress = Progress::new(Mode::Auto, output, at(0.0));
    progress.cached(Vertex::internal("[internal] load build context"));
    progress.cached(step("[1/2] COPY . ."));
    progress.started(step("[2/2] RUN a very long command line that does not fit"));
    progress
        .done(step("[2/2] RUN a very long command line that does not fit").digest, Outcome::Ran);
    progress.finish();
    let text = out.text();
    assert!(!text.contains('\x1b'), "{text:?}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0], "=> CACHED [1/2] COPY . .");
    assert!(lines[1].starts_with("=> [2/2] RUN a very lon"), "{text}");
    assert!(lines[1].ends_with("… 0.0s") && lines[1].chars().count() == 39, "{text}");
    assert!(lines[2].starts_with("2 steps: 1 cached, 1 ran in "), "{text}");
}

/// A terminal of `width` columns, as far as the renderer uses one: a full line wraps when the next
/// character comes.
fn screen(bytes: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let (mut row, mut column) = (0, 0);
    let mut chars = bytes.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                row += 1;
                column = 0;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\r' => column = 0,
            '\x1b' => {
                assert_eq!(chars.next(), Some('['));
                let mut number = String::new();
                while let Some(c) = chars.next_if(char::is_ascii_digit) {
                    number.push(c);
                }
                let n: usize = number.parse().unwrap_or(1);
                match chars.next() {
                    Some('A') => row -= n,
                    Some('B') => row += n,
                    Some('K') => lines[row].clear(),
                    Some('C' | 'D' | 'm') => {}
                    other => panic!("unexpected sequence {other:?}"),
                }
            }
            c => {
                if column == width {
                    row += 1;
                    column = 0;
                    if row == lines.len() {
                        lines.push(String::new());
                    }
                }
                let line: Vec<char> = lines[row].chars().collect();
                let mut line: String = line.into_iter().take(column).collect();
                line.push(c);
                lines[row] = line;
                column += 1;
            }
        }
    }
    lines
}

#[test]
fn a_tty_shows_running_steps_in_a_window_that_goes_away() {
    let out = Shared::default();
    let size: TerminalSize = Box::new(|| (12, 60));
    let mut tty = tty::Tty::new(Box::new(out.clone()), size, true, at(0.0));
    let (a, b) = (step("[1/2] RUN a"), step("[2/2] RUN b"));
    tty.take(at(0.0), Event::Expected { steps: 2 });
    tty.take(at(0.0), Event::VertexStarted(a.clone()));
    assert!(tty.flush(at(0.0)).is_some());
    assert_eq!(out.text(), "");
    for i in 0..100 {
        tty.take(at(0.2), log(&a, &format!("line {i}\n")));
    }
    tty.flush(at(1.0));
    let lines = screen(&out.text(), 60);
    assert_eq!(lines[0].trim_end(), "[+] 1.0s, 0/2");
    assert!(lines[1].starts_with("=> [1/2] RUN a") && lines[1].trim_end().ends_with("1.0s"));
    assert_eq!(lines[2].trim_end(), "   line 94");
    assert_eq!(lines[7].trim_end(), "   line 99");
    tty.take(at(1.5), done(&a, Outcome::Ran));
    tty.take(at(1.5), Event::VertexStarted(b.clone()));
    tty.flush(at(1.6));
    let lines = screen(&out.text(), 60);
    assert!(lines[0].starts_with("=> [1/2] RUN a") && lines[0].trim_end().ends_with("1.5s"));
    assert_eq!(lines[1].trim_end(), "[+] 1.6s, 1/2");
    tty.take(at(2.0), done(&b, Outcome::Failed("x".to_owned())));
    tty.finish(at(2.0));
    let lines: Vec<_> =
        screen(&out.text(), 60).into_iter().filter(|l| !l.trim().is_empty()).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[1].starts_with("=> ERROR [2/2] RUN b"), "{lines:#?}");
    assert_eq!(lines[2], "2 steps: 1 ran, 1 failed in 2.0s");
}

#[test]
fn emitters_on_many_threads_lose_nothing() {
    let out = Shared::default();
    let progress = Progress::new(Mode::Plain, Output::to(out.clone()), at(0.0));
    let (sender, receiver) = mpsc::channel();
    for t in 0..4 {
        let (progress, sender) = (progress.clone(), sender.clone());
        std::thread::spawn(move || {
            let vertex = step(&format!("step {t}"));
            progress.started(vertex.clone());
            for i in 0..500 {
                progress.log(vertex.digest, Stream::Stdout, format!("t{t} l{i}\n").as_bytes());
            }
            progress.done(vertex.digest, Outcome::Ran);
            sender.send(()).unwrap();
        });
    }
    for _ in 0..4 {
        receiver.recv().unwrap();
    }
    progress.finish();
    let text = out.text();
    assert_eq!(text.lines().filter(|l| l.contains(" l")).count(), 2000);
    assert_eq!(text.lines().filter(|l| l.contains(" DONE ")).count(), 4);
}

#[test]
fn a_closed_pipe_does_not_disturb_the_build() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let progress = Progress::new(Mode::Plain, Output::to(Broken), at(0.0));
    for i in 0..1000 {
        progress.cached(step(&i.to_string()));
    }
    progress.finish();
    assert_eq!(progress.counts().cached, 1000);
}

#[test]
fn a_tty_has_the_colours_and_the_lines_that_are_asked_for() {
    let out = Shared::default();
    let size: TerminalSize = Box::new(|| (40, 60));
    let mut looks = Looks::default();
    assert_eq!(looks.set_colours("run=cyan:warning=0,0,0"), Vec::<String>::new());
    looks.set_log_lines("9").unwrap();
    let mut tty = tty::Tty::new(Box::new(out.clone()), size, true, at(0.0)).with_looks(looks);
    let (a, b) = (step("[1/2] RUN a"), step("[2/2] RUN b"));
    tty.take(at(0.0), Event::VertexStarted(a.clone()));
    let done = Event::VertexDone { vertex: a.digest, outcome: Outcome::Cached };
    tty.take(at(0.1), done);
    tty.take(at(0.1), Event::Notice { vertex: None, text: "look".into() });
    tty.take(at(0.1), Event::VertexStarted(b.clone()));
    for i in 0..20 {
        tty.take(at(0.2), log(&b, &format!("line {i}\n")));
    }
    tty.flush(at(1.0));
    let text = out.text();
    assert!(text.contains("\x1b[36m=> CACHED"), "{text:?}");
    assert!(text.contains("\x1b[38;5;16mWARN: look"), "{text:?}");
    assert!(!text.contains("line 10") && text.contains("line 11"), "{text:?}");
}

#[test]
fn a_tty_shows_what_a_step_overwrites_and_names_the_step_of_a_notice() {
    let out = Shared::default();
    let size: TerminalSize = Box::new(|| (12, 80));
    let mut tty = tty::Tty::new(Box::new(out.clone()), size, false, at(0.0));
    let a = step("[1/2] RUN pip install");
    tty.take(at(0.0), Event::VertexStarted(a.clone()));
    tty.take(at(0.1), log(&a, "Downloading\n10%\r20%\r30%\r"));
    tty.flush(at(1.0));
    let lines = screen(&out.text(), 80);
    assert_eq!(lines[2].trim_end(), "   Downloading");
    assert_eq!(lines[3].trim_end(), "   30%");
    let text = "no limits here".to_owned();
    tty.take(at(1.0), Event::Notice { vertex: Some(a.digest), text });
    let id = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let status = |current| Event::Status {
        vertex: a.digest,
        id: id.clone(),
        current,
        total: Some(200_000_000),
        is_done: false,
    };
    tty.take(at(1.0), status(0));
    tty.take(at(3.0), status(40_000_000));
    tty.flush(at(3.0));
    let lines = screen(&out.text(), 80);
    assert_eq!(lines[0].trim_end(), "WARN: [1/2] no limits here");
    let amounts = "   sha256:0123456789ab 40.00MB / 200.00MB 20.00MB/s 8s left";
    assert_eq!(lines[3].trim_end(), amounts);
    tty.take(at(4.0), Event::Made { text: "image x in the store".to_owned() });
    tty.take(at(4.0), done(&a, Outcome::Ran));
    tty.finish(at(4.0));
    assert!(out.text().ends_with("1 step: 1 ran in 4.0s\nimage x in the store\n"));
}

#[test]
fn plain_shows_a_line_that_overwrites_itself_once_a_second_and_its_end_once() {
    let pip = step("[1/1] RUN pip");
    let text = plain(vec![
        (0.0, Event::VertexStarted(pip.clone())),
        (0.1, log(&pip, "10%\r")),
        (0.9, log(&pip, "50%\r60%")),
        (1.2, log(&pip, "\r")),
        (1.5, log(&pip, "70%\r")),
        (2.6, log(&pip, "100%\r")),
        (2.7, log(&pip, "\n")),
        (2.8, log(&pip, "installed\r\n")),
        (2.9, Event::Notice { vertex: Some(pip.digest), text: "a notice".to_owned() }),
        (3.0, done(&pip, Outcome::Ran)),
        (3.0, Event::Made { text: "image x in the store".to_owned() }),
    ]);
    assert_eq!(
        text,
        "\
#1 [1/1] RUN pip
#1 0.100 60%
#1 1.500 100%
#1 2.800 installed
#1 WARN: a notice
#1 DONE 3.0s

image x in the store
"
    );
}

/// Takes what is written, and at each write lets another thread go first.
#[derive(Clone, Default)]
struct Largest(Arc<Mutex<(usize, u64)>>);

impl Write for Largest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::thread::yield_now();
        let mut seen = self.0.lock().unwrap();
        seen.0 = seen.0.max(bytes.len());
        seen.1 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Prints 3 × 3 MiB at once, with lines of `line` bytes; returns the largest write and the sum.
fn flood(mode: Mode, limits: LogLimits, line: usize) -> (usize, u64) {
    let out = Largest::default();
    let is_tty = matches!(mode, Mode::Tty);
    let output = Output {
        writer: Box::new(out.clone()),
        size: is_tty.then(|| Box::new(|| (24_u16, 80_u16)) as TerminalSize),
        is_coloured: false,
        looks: Looks::default(),
    };
    let progress = Progress::new(mode, output, at(0.0)).with_log_limits(limits);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let progress = progress.clone();
            scope.spawn(move || {
                let vertex = step(&format!("[{number}/3] RUN yes"));
                progress.started(vertex.clone());
                let mut piece = vec![b'y'; 64 << 10];
                piece.iter_mut().skip(line - 1).step_by(line).for_each(|byte| *byte = b'\n');
                for _ in 0..48 {
                    progress.log(vertex.digest, Stream::Stdout, &piece);
                }
                progress.done(vertex.digest, Outcome::Ran);
            });
        }
    });
    progress.finish();
    let seen = out.0.lock().unwrap();
    *seen
}

#[test]
fn a_flood_of_output_is_written_in_pieces_whose_size_does_not_depend_on_it() {
    const MIB: usize = 1 << 20;
    for mode in [Mode::Plain, Mode::RawJson, Mode::Tty] {
        for line in [80, 64 << 10] {
            let (largest, _) = flood(mode, LogLimits::UNLIMITED, line);
            // A waiting step holds back a mebibyte.
            assert!(largest < 4 * MIB, "{mode:?} wrote {largest} bytes at once");
        }
    }
}

#[test]
fn a_flood_of_output_is_shown_up_to_its_limit() {
    let limits = LogLimits { size: Some(2 << 20), speed: None };
    let (_, sum) = flood(Mode::Plain, limits, 4096);
    assert!((6 << 20..7 << 20).contains(&sum), "{sum}");
}

//! `--format` with Go templates: `images`, `inspect`, `history`, `version`.

use crate::kit::Kit;

/// A store with the images `app:1` and `app:2`, which are one, and an older one without a name.
fn stocked() -> Kit {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nLABEL kind=old\n");
    kit.build_showing("quiet").args(["-q", "--timestamp=86400"]).ok();
    kit.dockerfile(
        "FROM fixture/base\nENV WHO=me\nLABEL kind=new team=a\nEXPOSE 80\n\
         CMD [\"echo\", \"hello\"]\nRUN echo x > /x\nUSER 7\n",
    );
    kit.build_showing("quiet").args(["-t", "app:1", "-t", "app:2"]).ok();
    kit
}

#[test]
fn inspect_prints_what_a_template_asks_for() {
    let kit = stocked();
    let show = |format: &str| {
        let shown = kit.builder(["inspect", "--format", format, "app:1"]).ok().stdout();
        shown.strip_suffix('\n').unwrap().to_owned()
    };
    let id = kit.builder(["images", "-q", "--no-trunc", "app:1"]).ok().stdout();
    for (format, expected) in [
        ("{{.Id}}", id.trim()),
        ("{{json .RepoTags}}", "[\"app:1\",\"app:2\"]"),
        ("{{index .RepoTags 0}} {{len .RepoTags}}", "app:1 2"),
        ("{{join .RepoTags \",\"}}", "app:1,app:2"),
        ("{{range .RepoTags}}<{{.}}>{{end}}", "<app:1><app:2>"),
        (
            "{{.Config.User}}{{.Config.Cmd}}{{json .Config.Cmd}}",
            "7[echo hello][\"echo\",\"hello\"]",
        ),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "kind=new;team=a;"),
        ("{{index .Config.Labels \"kind\"}}{{.Config.Labels.team | upper}}", "newA"),
        ("{{range $port, $_ := .Config.ExposedPorts}}{{$port}}{{end}}", "80/tcp"),
        ("{{json .Config.ExposedPorts}}{{.Config.Entrypoint}}", "{\"80/tcp\":{}}[]"),
        ("{{if .Config.Healthcheck}}yes{{else}}no{{end}}", "no"),
        ("{{.Os}}/{{.Architecture}}{{with .Variant}}/{{.}}{{end}}", &platform(&kit)),
        ("{{- .RootFS.Type -}}", "layers"),
        ("{{printf \"%.7s\" .Id}}{{println}}-", "sha256:\n-"),
    ] {
        assert_eq!(show(format), expected, "{format}");
    }
    assert!(show("{{.Config.Env}}").contains("WHO=me]"));
    assert_eq!(show("{{.Descriptor.Digest}}"), show("{{.Descriptor.digest}}"));
    assert_ne!(show("{{len .RootFS.Layers}}"), "0");
    let one_line: serde_json::Value = serde_json::from_str(&show("json")).unwrap();
    let indented = kit.builder(["image", "inspect", "app:1"]).ok().stdout();
    assert_eq!(one_line, serde_json::from_str::<serde_json::Value>(&indented).unwrap());
}

fn platform(kit: &Kit) -> String {
    kit.builder(["version", "--format", "{{.Platform}}"]).ok().stdout().trim().to_owned()
}

#[test]
fn inspect_of_several_names_shows_those_that_are_there() {
    let kit = stocked();
    let words = ["inspect", "--type=image", "-f", "{{index .RepoTags 0}}"];
    let outcome = kit.builder(words).args(["app:1", "gone:1", "app:2", "gone:2"]).run();
    assert_eq!(outcome.status, Some(2));
    assert_eq!(outcome.stdout(), "app:1\napp:1\n");
    outcome.says(&["gone:1", "gone:2"]);
    let twice = kit.builder(["inspect", "app:1", "app:2"]).ok().stdout();
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&twice).unwrap().len(), 2);
}

#[test]
fn images_are_listed_by_templates_and_filters() {
    let kit = stocked();
    let list = |words: &[&str]| kit.builder(["images"]).args(words).ok().stdout();
    let names = "{{.Repository}}:{{.Tag}}";
    assert_eq!(list(&["--format", names]), "app:1\napp:2\n<none>:<none>\n");
    let table = list(&["--format", "table {{.Repository}}\\t{{.Tag}}\\t{{.Platform}}"]);
    let expected = format!(
        "REPOSITORY   TAG       PLATFORM\napp          1         {0}\napp          2         {0}\n\
         <none>       <none>    {0}\n",
        platform(&kit)
    );
    assert_eq!(table, expected);
    let old = list(&["--format", "{{.CreatedAt}} {{.Labels}}", "--filter", "dangling=true"]);
    assert_eq!(old, "1970-01-02 00:00:00 +0000 UTC kind=old\n");
    for line in list(&["--format", "json", "--no-trunc"]).lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["ID"].as_str().unwrap().starts_with("sha256:"), "{row}");
    }
    for (filters, expected) in [
        (&["reference=app:2"][..], "app:2\n"),
        (&["reference=app:2", "reference=*:1"], "app:1\napp:2\n"),
        (&["label=kind=old"], "<none>:<none>\n"),
        (&["label=kind", "label=team=a"], "app:1\napp:2\n"),
        (&["until=1971-01-01"], "<none>:<none>\n"),
        (&["until=0"], ""),
        (&["before=app:1"], "<none>:<none>\n"),
        (&["since=app:1"], ""),
        (&["dangling=false"], "app:1\napp:2\n"),
    ] {
        let flags = filters.iter().flat_map(|filter| ["--filter", *filter]);
        let words: Vec<&str> = flags.chain(["--format", names]).collect();
        assert_eq!(list(&words), expected, "{filters:?}");
    }
    // One image, of one platform, under both of its names.
    let tree = list(&["--tree", "app"]);
    assert_eq!(tree.lines().filter(|line| line.contains('└')).count(), 1, "{tree}");
    assert!(tree.contains(&platform(&kit)) && tree.contains("app:1") && tree.contains("app:2"));
}

#[test]
fn the_history_of_an_image_takes_templates() {
    let kit = stocked();
    let list = |format: &str| {
        kit.builder(["history", "app:1", "--no-trunc", "--format", format]).ok().stdout()
    };
    let by = list("{{.CreatedBy}}");
    assert!(by.starts_with("USER 7\nRUN /bin/sh -c echo x > /x"), "{by}");
    assert!(by.lines().any(|line| line.contains("CMD [\"echo\" \"hello\"]")), "{by}");
    assert!(list("table {{.Size}}\\t{{.CreatedBy}}").starts_with("SIZE      CREATED BY\n"));
    assert!(list("json").lines().all(|line| line.starts_with("{\"Comment\"")));
}

#[test]
fn layouts_and_archives_are_inspected_where_they_are() {
    let kit = stocked();
    let id = kit.builder(["inspect", "-f", "{{.Id}}", "app:1"]).ok().stdout();
    let (layout, archive) = (kit.out("layout"), kit.out("image.tar"));
    for place in
        [format!("oci:{}:1", layout.display()), format!("oci-archive:{}", archive.display())]
    {
        kit.builder(["copy", "-q", "app:1", &place]).ok();
        let other = Kit::new();
        let shown = other.builder(["inspect", "-f", "{{.Id}}\n{{.Config.User}}", &place]).ok();
        assert_eq!(shown.stdout(), format!("{id}7\n"), "{place}");
        assert_eq!(other.builder(["images", "-q"]).ok().stdout(), "", "nothing is kept");
    }
    let outcome = kit.builder(["inspect", "oci:/nowhere"]).run();
    assert!(matches!(outcome.status, Some(5 | 6)), "{:?}", outcome.status);
    kit.builder(["inspect", "docker-archive:x.tar"]).fails(2).says(&["builder load -i x.tar"]);
}

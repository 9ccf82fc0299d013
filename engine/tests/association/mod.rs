//! Names, shared terms, sequences and attributes.

use engram_engine::attributes::{AttributeIndex, AttributeKind, attributes_of};
use engram_engine::model::Metadata;
use engram_engine::names::{NameIndex, NameSpan, longest, name_key, names_of, normal_form};
use engram_engine::node::NodeIx;
use engram_engine::sequence::sequence_of;
use engram_engine::terms::{TermIndex, terms_of};

fn metadata(json: &str) -> Metadata {
    serde_json::from_str(json).expect("test metadata is JSON")
}

#[test]
fn normal_forms_keep_letters_and_digits_alone() {
    let check = |text: &str, expected: &str| assert_eq!(normal_form(text), expected, "{text}");
    check("Theodred II (Bishop of Elmham)", "theodred ii bishop of elmham");
    check("Sancho Ramírez's  maternal", "sancho ramirez maternal");
    check("Ramírez’s", "ramirez");
    check("O'Brien, s'il", "o brien s il");
    check("Ħal-Far №5", "ħal far no5");
    check("東京 Tower", "東 京 tower");
    check(" … ", "");
}

#[test]
fn names_come_from_title_aliases_and_first_line() {
    let check = |json: &str, content: Option<&str>, expected: &[(&str, f32)]| {
        let names = names_of(&metadata(json), content, content.is_some());
        let named: Vec<(&str, f32)> = names.iter().map(|n| (&*n.normal, n.weight)).collect();
        assert_eq!(named, expected, "{json} {content:?}");
    };
    check(
        r#"{"title": "Mercury (planet)", "names": ["Hermes", "mercury"]}"#,
        None,
        &[("mercury planet", 1.0), ("mercury", 0.7), ("hermes", 1.0)],
    );
    check(r#"{"title": "…"}"#, None, &[]);
    check("{}", Some("Alf Clausen\nis a composer"), &[("alf clausen", 1.0)]);
    check("{}", Some("dog, canis familiaris: a pet"), &[("dog", 1.0), ("canis familiaris", 1.0)]);
}

fn index_of(names: &[&str]) -> NameIndex {
    let mut index = NameIndex::new();
    for (node, name) in (0..).zip(names) {
        let json = format!(r#"{{"title": "{name}"}}"#);
        index.insert(NodeIx(node), &names_of(&metadata(&json), None, false));
    }
    index
}

fn mentioned(index: &NameIndex, text: &str) -> Vec<NameSpan> {
    let spans: Vec<NameSpan> = index.matches(&normal_form(text)).iter().map(|m| m.span).collect();
    longest(&spans)
}

#[test]
fn the_longest_name_from_the_left_is_mentioned() {
    let index = index_of(&[
        "New York",
        "New York Times",
        "Times Square",
        "York",
        "Lee",
        "Under",
        "1984",
        "The Who",
    ]);
    let check = |text: &str, expected: &[&str]| {
        let keys: Vec<u64> = mentioned(&index, text).iter().map(|span| span.name_key).collect();
        let expected: Vec<u64> = expected.iter().map(|name| name_key(name)).collect();
        assert_eq!(keys, expected, "{text}");
    };
    check("The New York Times Square", &["new york times"]);
    check("New York and Times Square", &["new york", "times square"]);
    check("York, old York", &["york"]);
    check("Lee went under", &[]);
    check("Lee", &["lee"]);
    check("Under", &["under"]);
    check("1984 as well", &[]);
    check("1984", &["1984"]);
    check("The Who is on", &[]);
    check("The Who?", &["the who"]);
}

#[test]
fn every_match_is_reported_so_that_shards_can_be_merged() {
    let names = ["New York", "New York Times", "Times Square", "York"];
    let text = "the New York Times Square of York";
    let whole = mentioned(&index_of(&names), text);
    let (left, right) = (index_of(&names[..1]), index_of(&names[1..]));
    let mut spans: Vec<NameSpan> = Vec::new();
    for shard in [right, left] {
        spans.extend(shard.matches(&normal_form(text)).iter().map(|m| m.span));
    }
    assert_eq!(longest(&spans), whole);
}

#[test]
fn a_removed_name_is_mentioned_no_more() {
    let mut index = index_of(&["New York", "New York", "New Amsterdam"]);
    let holders = |index: &NameIndex| -> Vec<u32> {
        let matches = index.matches("in new york");
        matches.iter().flat_map(|m| m.holders.iter().map(|(node, _)| node.0)).collect()
    };
    assert_eq!(holders(&index), [0, 1]);
    index.remove(NodeIx(0));
    assert_eq!(holders(&index), [1]);
    index.remove(NodeIx(1));
    index.remove(NodeIx(1));
    assert_eq!(holders(&index), [0u32; 0]);
    assert_eq!(mentioned(&index, "New Amsterdam").len(), 1);
}

#[test]
fn terms_are_spans_quotes_years_and_tags() {
    let check = |content: &str, expected: &[&str]| {
        let terms = terms_of(&metadata(r#"{"tags": ["Blue Note"]}"#), Some(content));
        let shown: Vec<&str> = terms.iter().map(|term| &*term.display).collect();
        for term in expected {
            assert!(shown.contains(term), "{term} in {shown:?}");
        }
    };
    check(
        "In 1959 Miles Davis made \"kind of blue\" for Columbia.",
        &["blue note", "1959", "miles davis", "kind of blue", "columbia"],
    );
}

#[test]
fn shared_terms_know_their_members() {
    let mut index = TermIndex::new();
    let terms = terms_of(&metadata("{}"), Some("Miles Davis in 1959"));
    index.insert(NodeIx(4), &terms);
    index.insert(NodeIx(1), &terms);
    let key = terms.iter().find(|term| term.display == "miles davis").unwrap().key;
    assert_eq!(index.members(key), [NodeIx(1), NodeIx(4)]);
    assert_eq!(index.display(key), Some("miles davis"));
    index.remove(NodeIx(4));
    assert_eq!((index.df(key), index.terms_of(NodeIx(4)).len()), (1, 0));
    index.remove(NodeIx(1));
    assert_eq!((index.df(key), index.display(key)), (0, None));
}

#[test]
fn a_sequence_is_a_session_or_a_source() {
    let key = |json: &str| sequence_of(&metadata(json));
    assert_eq!(key(r#"{"session": 1, "source": "a"}"#), key(r#"{"session": 1}"#));
    assert_ne!(key(r#"{"session": 1}"#), key(r#"{"session": "1"}"#));
    assert_ne!(key(r#"{"session": "a"}"#), key(r#"{"source": "a"}"#));
    assert_eq!(key(r#"{"session": null, "source": "a"}"#), key(r#"{"source": "a"}"#));
    assert_eq!(key(r#"{"session": [1]}"#), None);
}

#[test]
fn attributes_named_in_a_text_are_found() {
    let mut index = AttributeIndex::new();
    let caroline = attributes_of(&metadata(r#"{"speaker": "Caroline", "tags": ["Jazz Club"]}"#));
    index.insert(NodeIx(0), &caroline);
    index.insert(NodeIx(1), &attributes_of(&metadata(r#"{"speaker": "Mel"}"#)));
    let named = index.named_in(&normal_form("Caroline's jazz club"));
    assert_eq!(named.len(), 2);
    assert!(named.iter().all(|attribute| index.of(NodeIx(0)).contains(attribute)));
    assert_eq!(index.named_in("mel")[0].kind, AttributeKind::Speaker);
    index.remove(NodeIx(1));
    assert!(index.named_in("mel").is_empty());
}

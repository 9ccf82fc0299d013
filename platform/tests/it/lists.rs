//! CPU lists in the notation of the kernel.

use engram_platform::CpuList;

#[test]
fn a_list_reads_and_prints_in_its_shortest_form() {
    let cases = [
        ("", ""),
        ("\n", ""),
        ("3", "3"),
        ("2-7,9", "2-7,9"),
        ("9,2-4,5-7", "2-7,9"),
        ("0,1,2,2", "0-2"),
        (" 1 , 3 \n", "1,3"),
        ("5-5", "5"),
    ];
    for (text, expected) in cases {
        let list: CpuList = text.parse().unwrap();
        assert_eq!(list.to_string(), expected, "from {text:?}");
    }
}

#[test]
fn a_list_that_is_none_is_refused_with_its_text() {
    for text in ["a", "7-2", "1,,2", "-1", "1-", "+1", "0x1", "99999999999", "0-4294967295"] {
        let error = text.parse::<CpuList>().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

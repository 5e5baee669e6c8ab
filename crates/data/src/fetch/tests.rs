//! Tests of downloads, against a server of a few lines on the loopback interface.

use super::*;
use crate::files::tests::{SMALL, gzip};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A server that notes the `Range` of each request, or an empty text.
struct Server {
    url: String,
    ranges: Arc<Mutex<Vec<String>>>,
}

/// Serves `files`; connection `i` breaks off after `cuts[i]` bytes of the body, later ones never.
fn serve(files: BTreeMap<&'static str, Vec<u8>>, cuts: Vec<usize>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ranges);
    std::thread::spawn(move || {
        let mut cuts = cuts.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request: Vec<String> =
                BufReader::new(&stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let path = request[0].split(' ').nth(1).unwrap().trim_start_matches('/');
            let range = request.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_string));
            seen.lock().unwrap().push(range.clone().unwrap_or_default());
            let start = range.map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
            let (status, body) = match files.get(path) {
                None => ("404 Not Found", &b"gone"[..]),
                Some(file) if start > 0 && start >= file.len() => ("416 Range Not Satisfiable", &b""[..]),
                Some(file) if start > 0 => ("206 Partial Content", &file[start..]),
                Some(file) => ("200 OK", &file[..]),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let sent = cuts.next().unwrap_or(usize::MAX).min(body.len());
            // The client may have hung up.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
        }
    });
    Server { url, ranges }
}

/// The archive of [`SMALL`], its description and its server.
fn small(cuts: Vec<usize>) -> (Published, Server) {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [("one.bin", [3, 1, 2, 3, 4]), ("two.bin", [4, 5, 6, 7, 8]), ("test.bin", [9, 0, 0, 0, 0])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, format!("some-folder/{name}"), &bytes[..]).unwrap();
    }
    let archive = gzip(&archive.into_inner().unwrap());
    let md5 = files::hex(&Md5::digest(&archive)).leak();
    let downloads = vec![Download { name: "small.tar.gz", md5 }].leak();
    (Published { downloads, ..SMALL }, serve(BTreeMap::from([("small.tar.gz", archive)]), cuts))
}

fn run(published: &Published, server: &Server, to: &Path) -> Result<PathBuf, Error> {
    fetch_published(published, to, FetchOptions { base_url: Some(server.url.clone()), progress: &mut |_, _| {} })
}

fn contents(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_archive_is_unpacked_into_the_sets_folder_and_nothing_else_stays() {
    let to = tempfile::tempdir().unwrap();
    let (published, server) = small(vec![]);
    let mut seen = Vec::new();
    let options =
        FetchOptions { base_url: Some(server.url.clone()), progress: &mut |done, total| seen.push((done, total)) };
    let folder = fetch_published(&published, to.path(), options).unwrap();
    assert_eq!(folder, to.path().join("small"));
    assert_eq!(contents(to.path()), ["small"]);
    assert_eq!(contents(&folder), ["one.bin", "test.bin", "two.bin"]);
    let (done, total) = *seen.last().unwrap();
    assert_eq!(Some(done), total);
    // All is there: a second call asks for nothing.
    run(&published, &server, to.path()).unwrap();
    assert_eq!(server.ranges.lock().unwrap().len(), 1);
}

#[test]
fn gzipped_files_are_stored_as_they_are() {
    let to = tempfile::tempdir().unwrap();
    let file = gzip(&[3, 1, 2, 3, 4]);
    let md5 = files::hex(&Md5::digest(&file)).leak();
    let downloads = vec![Download { name: "one.bin.gz", md5 }].leak();
    let server = serve(BTreeMap::from([("one.bin.gz", file)]), vec![]);
    let published = Published { downloads, train: &SMALL.train[..1], test: &[], ..SMALL };
    assert_eq!(contents(&run(&published, &server, to.path()).unwrap()), ["one.bin.gz"]);
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let to = tempfile::tempdir().unwrap();
    let (published, server) = small(vec![40, 30]);
    run(&published, &server, to.path()).unwrap();
    assert_eq!(*server.ranges.lock().unwrap(), ["", "bytes=40-", "bytes=70-"]);
}

#[test]
fn the_next_call_continues_what_the_last_one_left() {
    let to = tempfile::tempdir().unwrap();
    // Two connections that bring nothing new end the first call.
    let (published, server) = small(vec![40, 0]);
    let error = run(&published, &server, to.path()).unwrap_err().to_string();
    assert!(error.contains("check the network and try again"), "{error}");
    assert_eq!(contents(to.path()), [".small.part"]);
    run(&published, &server, to.path()).unwrap();
    assert_eq!(*server.ranges.lock().unwrap(), ["", "bytes=40-", "bytes=40-"]);
    assert_eq!(contents(to.path()), ["small"]);
}

#[test]
fn a_complete_download_that_was_never_checked_is_not_repeated() {
    let to = tempfile::tempdir().unwrap();
    let (published, server) = small(vec![]);
    let work = to.path().join(".small.part");
    fs::create_dir(&work).unwrap();
    let mut reader = ureq::get(format!("{}small.tar.gz", server.url)).call().unwrap();
    fs::write(work.join("small.tar.gz.part"), reader.body_mut().read_to_vec().unwrap()).unwrap();
    run(&published, &server, to.path()).unwrap();
    assert_eq!(server.ranges.lock().unwrap().len(), 2);
}

#[test]
fn a_wrong_checksum_is_refused_and_forgotten() {
    let to = tempfile::tempdir().unwrap();
    let (_, server) = small(vec![]);
    let published = Published { downloads: &[Download { name: "small.tar.gz", md5: "00" }], ..SMALL };
    let error = run(&published, &server, to.path()).unwrap_err().to_string();
    assert!(error.contains("is not the published file (md5 ") && error.contains(", expected 00)"), "{error}");
    assert_eq!(contents(to.path()), [".small.part"]);
    assert_eq!(contents(&to.path().join(".small.part")), ["lock"]);
}

#[test]
fn a_missing_address_is_one_clear_sentence() {
    let to = tempfile::tempdir().unwrap();
    let server = serve(BTreeMap::new(), vec![]);
    let options = FetchOptions { base_url: Some(server.url.clone()), progress: &mut |_, _| {} };
    let error = fetch(DataSet::Cifar10, to.path(), options).unwrap_err().to_string();
    let expected = format!(
        "{}cifar-10-binary.tar.gz cannot be fetched (the server answers 404 Not Found): check the network and try again, \
         or put the files into {} yourself",
        server.url,
        to.path().join("cifar-10-batches-bin").display()
    );
    assert_eq!(error, expected);
    assert_eq!(contents(to.path()), [".cifar-10-batches-bin.part"]);
}

#[test]
fn no_server_at_all_fails_at_once() {
    let to = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = FetchOptions { base_url: Some(format!("http://{closed}")), progress: &mut |_, _| {} };
    let error = fetch(DataSet::Mnist, to.path(), options).unwrap_err().to_string();
    assert!(error.contains("cannot be fetched (") && error.contains("train-images-idx3-ubyte.gz"), "{error}");
}

#[test]
fn missing_files_are_added_and_the_others_kept() {
    let to = tempfile::tempdir().unwrap();
    let (published, server) = small(vec![]);
    let folder = run(&published, &server, to.path()).unwrap();
    fs::remove_file(folder.join("two.bin")).unwrap();
    fs::write(folder.join("note.txt"), "mine").unwrap();
    run(&published, &server, to.path()).unwrap();
    assert_eq!(contents(&folder), ["note.txt", "one.bin", "test.bin", "two.bin"]);
}

#[test]
fn a_file_that_is_not_the_published_one_is_never_overwritten() {
    let to = tempfile::tempdir().unwrap();
    let (published, server) = small(vec![]);
    let folder = run(&published, &server, to.path()).unwrap();
    fs::write(folder.join("two.bin"), "mine").unwrap();
    let error = run(&published, &server, to.path()).unwrap_err().to_string();
    assert!(error.contains("two.bin is not the published file and is not replaced"), "{error}");
    assert_eq!(fs::read(folder.join("two.bin")).unwrap(), b"mine");
}

#[test]
fn two_downloads_into_one_folder_are_refused() {
    let to = tempfile::tempdir().unwrap();
    let (published, server) = small(vec![]);
    let work = to.path().join(".small.part");
    fs::create_dir(&work).unwrap();
    let other = File::create(work.join("lock")).unwrap();
    other.try_lock().unwrap();
    let error = run(&published, &server, to.path()).unwrap_err().to_string();
    assert!(error.starts_with("another process is fetching small"), "{error}");
}

#[test]
fn a_computed_set_is_not_fetched() {
    let options = FetchOptions { base_url: None, progress: &mut |_, _| {} };
    let error = fetch(DataSet::Shapes10, Path::new("/nowhere"), options).unwrap_err().to_string();
    assert_eq!(error, "shapes10 is computed and needs no download: use it as it is");
}

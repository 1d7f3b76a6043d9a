//! A mosquitto on a free loopback port with mutual TLS and a CA made for it; ended by its own process id.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cardea_simulator::car::MqttAddress;
use cardea_simulator::identity::{CarIssuer, Credentials};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

pub struct Broker {
    process: Child,
    pub address: MqttAddress,
    pub issuer: CarIssuer,
    dir: tempfile::TempDir,
}

impl Broker {
    /// `None` where mosquitto is not installed: the test says so in one line.
    pub async fn start() -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(program) = program else {
            eprintln!("skipped: mosquitto is not installed");
            return None;
        };
        cardea_simulator::identity::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        make_server_identity(dir.path());
        let issuer = CarIssuer::load(&dir.path().join("ca.pem"), &dir.path().join("ca-key.pem"), false).unwrap();
        // The port is free for a moment only, so another may take it; then the next one is tried.
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut process = launch(program, dir.path(), port);
            if answers(&mut process, port).await {
                let address = MqttAddress { host: "127.0.0.1".into(), port };
                return Some(Self { process, address, issuer, dir });
            }
        }
        panic!("mosquitto did not start: {}", std::fs::read_to_string(dir.path().join("log")).unwrap_or_default());
    }

    pub fn credentials(&self, name: &str) -> Credentials {
        self.issuer.issue_named(name).unwrap()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub async fn restart(&mut self) {
        let program = "/usr/sbin/mosquitto";
        self.process = launch(program, self.dir.path(), self.address.port);
        assert!(answers(&mut self.process, self.address.port).await, "mosquitto did not come back");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn launch(program: &str, dir: &Path, port: u16) -> Child {
    let config = dir.join("mosquitto.conf");
    let at = |name: &str| dir.join(name).display().to_string();
    let mut file = std::fs::File::create(&config).unwrap();
    write!(
        file,
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true\nallow_anonymous true\nuser root\nlog_dest stderr\n",
        at("ca.pem"),
        at("server.pem"),
        at("server-key.pem"),
    )
    .unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Command::new(program).arg("-c").arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

async fn answers(process: &mut Child, port: u16) -> bool {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return true;
        }
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        looks.tick().await;
    }
    false
}

fn make_server_identity(dir: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test CA");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&ca_cert.pem(), &ca_key).unwrap();
    let server_cert = server.signed_by(&server_key, &issuer).unwrap();
    for (name, text) in [
        ("ca.pem", ca_cert.pem()),
        ("ca-key.pem", ca_key.serialize_pem()),
        ("server.pem", server_cert.pem()),
        ("server-key.pem", server_key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

import ArgumentParser
import Crypto
import Glibc
import IKE
import IPsec

/// Reading and writing for `culvert pki`, with errors as sentences.
enum PKIFiles {
    /// Certificates begin a little in the past: clocks differ.
    static let backdatedSeconds: Int64 = 300
    static let mostDays = 36_500

    static func validate(days: Int, pathLength: Int?) throws {
        if !(1...mostDays).contains(days) { throw ValidationError("--days must be 1 to \(mostDays).") }
        if let pathLength, !(0...8).contains(pathLength) { throw ValidationError("--path-length must be 0 to 8.") }
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    static func refuseOverwriting(_ paths: [String], force: Bool) throws {
        guard !force, let path = paths.first(where: exists) else { return }
        complain("\(path) exists already; choose another name, or --force to overwrite it.")
        throw Exit.no
    }

    // MARK: Reading

    static func certificates(_ path: String) throws -> [Certificate] { try told(path) { try Certificate.read(file: path) } }
    static func key(_ path: String) throws -> OpenSSLSigningKey { try told(path) { try OpenSSLSigningKey(file: path) } }
    static func lists(_ path: String) throws -> [RevocationList] { try told(path) { try RevocationList.read(file: path) } }

    /// SubjectPublicKeyInfo of a private or public key file.
    static func publicKey(_ path: String) throws -> [UInt8] {
        if let key = try? OpenSSLVerifyingKey(file: path) { return key.subjectPublicKeyInfo }
        return try key(path).subjectPublicKeyInfo
    }

    static func generate(_ kind: PublicKeyKind) throws -> OpenSSLSigningKey {
        try told("A key") { try OpenSSLSigningKey(generating: kind) }
    }

    static func issue(
        _ template: CertificateTemplate, _ publicKey: [UInt8], _ issuer: Certificate?, _ key: OpenSSLSigningKey
    ) throws -> Certificate {
        try told("The certificate") {
            try template.issue(subjectPublicKeyInfo: publicKey, issuer: issuer, key: key)
        }
    }

    /// Runs `body`; what goes wrong becomes a sentence about `what` and an exit.
    static func told<Value>(_ what: String, _ body: () throws -> Value) throws -> Value {
        do {
            return try body()
        } catch let error as CredentialError {
            complain("\(what) \(error.clause).")
            throw Exit.no
        }
    }

    // MARK: Writing

    /// Readable by its owner alone from the first moment on.
    static func write(_ key: OpenSSLSigningKey, to path: String, force: Bool) throws {
        let pem = try told("The key") { try key.privatePEM() }
        try write(path, mode: 0o600, force: force) { descriptor in
            pem.withBytes { span in span.withUnsafeBytes { writeAll($0, descriptor) } }
        }
    }

    static func write(certificates: [Certificate], to path: String, force: Bool) throws {
        try write(text: certificates.map { PEM.text("CERTIFICATE", $0.der) }.joined(), to: path, force: force)
    }

    static func write(text: String, to path: String, force: Bool) throws {
        try write(path, mode: 0o644, force: force) { descriptor in
            Array(text.utf8).withUnsafeBytes { writeAll($0, descriptor) }
        }
    }

    /// Into a new file beside it that then takes its name, so that nobody ever reads half of one.
    private static func write(_ path: String, mode: mode_t, force: Bool, _ body: (Int32) -> Bool) throws {
        let draft = "\(path).\(getpid()).new"
        let descriptor = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
        guard descriptor >= 0 else {
            complain("\(path) cannot be written: \(String(cString: strerror(errno))).")
            throw Exit.no
        }
        let isWritten = body(descriptor) && fsync(descriptor) == 0
        close(descriptor)
        // link() refuses to replace what somebody else has put there meanwhile.
        let isPlaced = isWritten && (force ? rename(draft, path) == 0 : link(draft, path) == 0)
        let reason = errno
        unlink(draft)
        guard isPlaced else {
            complain("\(path) cannot be written: \(String(cString: strerror(reason))).")
            throw Exit.no
        }
    }

    private static func writeAll(_ bytes: UnsafeRawBufferPointer, _ descriptor: Int32) -> Bool {
        var done = 0
        while done < bytes.count, let base = bytes.baseAddress {
            let count = Glibc.write(descriptor, base + done, bytes.count - done)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }
}

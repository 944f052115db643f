internal import COpenSSL
internal import Glibc
internal import IPsec

/// Why a file with a key, a certificate or a revocation list cannot be used: a clause that goes on after the file's name, such as
/// "does not exist" or "holds an encrypted key; decrypt it with …". It never holds a secret.
public struct CredentialError: Error, Hashable, Sendable {
    public var clause: String
    public init(_ clause: String) { self.clause = clause }
}

/// What is read from disk, bounded.
public enum CredentialFile {
    /// Octets of a private key file: RSA with 16,384 bits takes 13 KiB.
    public static let maxKeyBytes = 64 * 1024
    /// Octets of a file with certificates.
    public static let maxCertificateBytes = 4 * 1024 * 1024
    /// Octets of a revocation list: some public CAs have lists of several megabytes.
    public static let maxRevocationListBytes = 32 * 1024 * 1024

    /// A private key file, straight into secret memory.
    public static func secret(path: String) throws(CredentialError) -> SecureBytes {
        let (descriptor, size) = try open(path, maxBytes: maxKeyBytes)
        defer { close(descriptor) }
        var read = 0
        let secret = SecureBytes(count: size) { buffer in read = fill(buffer, from: descriptor) }
        guard read == size else { throw CredentialError("cannot be read whole") }
        return secret
    }

    /// A file without secrets.
    public static func contents(path: String, maxBytes: Int) throws(CredentialError) -> [UInt8] {
        let (descriptor, size) = try open(path, maxBytes: maxBytes)
        defer { close(descriptor) }
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            count = fill(UnsafeMutableRawBufferPointer(buffer), from: descriptor)
        }
        guard bytes.count == size else { throw CredentialError("cannot be read whole") }
        return bytes
    }

    /// What tells that a file has changed: nil when it is not there.
    public struct Stamp: Hashable, Sendable {
        var device: UInt64, inode: UInt64, bytes: Int64, seconds: Int, nanoseconds: Int
        /// Of the last change of the mode, too: a file that could not be read may be readable now.
        var changedSeconds: Int, changedNanoseconds: Int

        public init?(path: String) {
            var status = stat()
            guard stat(path, &status) == 0 else { return nil }
            (device, inode, bytes) = (UInt64(status.st_dev), UInt64(status.st_ino), Int64(status.st_size))
            (seconds, nanoseconds) = (status.st_mtim.tv_sec, status.st_mtim.tv_nsec)
            (changedSeconds, changedNanoseconds) = (status.st_ctim.tv_sec, status.st_ctim.tv_nsec)
        }
    }

    /// Group or world may read the file.
    public static func isReadableByOthers(path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & 0o044 != 0
    }

    /// Only regular files, so that a pipe or a device cannot hold the gateway up.
    private static func open(_ path: String, maxBytes: Int) throws(CredentialError) -> (descriptor: Int32, size: Int) {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw CredentialError(
                errno == EACCES
                    ? "cannot be opened for reading; check its owner and permissions"
                    : "does not exist or its folder cannot be entered")
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            close(descriptor)
            throw CredentialError("is not a regular file")
        }
        guard status.st_size <= maxBytes else {
            close(descriptor)
            throw CredentialError("is larger than \(maxBytes) bytes, the most that is read")
        }
        return (descriptor, Int(status.st_size))
    }

    /// The octets read.
    private static func fill(_ buffer: UnsafeMutableRawBufferPointer, from descriptor: Int32) -> Int {
        var done = 0
        while done < buffer.count, let base = buffer.baseAddress {
            let count = read(descriptor, base + done, buffer.count - done)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            done += count
        }
        return done
    }
}

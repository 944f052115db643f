import CLinux
import Glibc

/// The service manager that started this process and waits for a word of it: systemd with `Type=notify`, sd_notify(3).
public enum ServiceManager {
    /// Says that the service is ready. Does nothing where nobody waits; a word that cannot be said is no reason to stop.
    public static func tellReady() { tell("READY=1\n") }

    private static func tell(_ message: String) {
        guard let name = getenv("NOTIFY_SOCKET").map({ String(cString: $0) }), !name.isEmpty else { return }
        var path = Array(name.utf8)
        // "@" stands for the zero octet of an abstract socket.
        let isAbstract = path[0] == UInt8(ascii: "@")
        if isAbstract { path[0] = 0 }
        var address = sockaddr_un()
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard path.count < room else { return }
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
        let descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let length = socklen_t(MemoryLayout<sockaddr_un>.size - room + path.count + (isAbstract ? 0 : 1))
        let octets = Array(message.utf8)
        // sockaddr_un is a sockaddr by its first member; `octets` and `address` live through the call.
        _ = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(descriptor, octets, octets.count, Int32(MSG_NOSIGNAL), $0, length)
            }
        }
    }
}

import Glibc
import IKE

/// The system's error numbers as the core tells them.
enum SendFailures {
    static let messageTooLong = EMSGSIZE

    static func failure(_ number: Int32) -> SendFailure {
        switch number {
        case ENETUNREACH: SendFailure(.noRoute, name: "ENETUNREACH")
        case EHOSTUNREACH: SendFailure(.noRoute, name: "EHOSTUNREACH")
        // What an `unreachable`, `prohibit` or `blackhole` route answers.
        case EACCES: SendFailure(.noRoute, name: "EACCES")
        case EINVAL: SendFailure(.noRoute, name: "EINVAL")
        case EPERM: SendFailure(.filtered, name: "EPERM")
        case EMSGSIZE: SendFailure(.tooLong, name: "EMSGSIZE")
        case ENOBUFS: SendFailure(.other, name: "ENOBUFS")
        default: SendFailure(.other, name: "error \(number)")
        }
    }
}

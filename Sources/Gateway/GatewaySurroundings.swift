import Configuration
import Dataplane
import IKE
import IPsec

/// What a control thread is made with. Production fills it with Linux, AF_XDP and OpenSSL; tests with stand-ins.
struct GatewaySurroundings {
    var kernel: any KernelControlling
    var dataplane: any DataplaneControlling
    var crypto: any IKECrypto
    var random: any IKERandom
    var coreSettings: CoreSettings
    /// Reads the configuration file again.
    var reload: () -> LoadedConfiguration
    /// Seconds since 1970, for the validity of certificates.
    var wallClock: @Sendable () -> Int64 = CredentialInspection.timeOfDay
}

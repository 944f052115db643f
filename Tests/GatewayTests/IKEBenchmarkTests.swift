@testable import Gateway
import Crypto
import IKE
import Testing

@Suite("IKE benchmark")
struct IKEBenchmarkTests {
    static let proposal = "aes256gcm16-prfsha256-x25519"

    @Test(arguments: IKEBenchmarkCredentials.Method.allCases)
    func `both ends come together and rekey with every kind of key`(_ method: IKEBenchmarkCredentials.Method) throws {
        let results = try IKEBenchmark.run(
            .init(
                proposals: [Self.proposal], authentications: [method], operations: IKEBenchmark.Operation.allCases, threads: 1,
                seconds: 0), progress: { _ in })
        #expect(results.map(\.operation) == IKEBenchmark.Operation.allCases.map(\.rawValue))
        #expect(results.allSatisfy { $0.authentication == method.rawValue && $0.perSecond > 0 })
    }

    @Test func `a certificate of a CA that is not trusted does not pass`() throws {
        var credentials = try IKEBenchmarkCredentials(.ecdsa256)
        credentials.trust = try IKEBenchmarkCredentials(.ecdsa256).trust
        let pair = try IKEBenchmarkPair(connections: 1, proposal: Self.proposal, credentials: credentials)
        #expect(throws: IKEBenchmark.Failure.self) { try pair.measure(.handshake, seconds: 0) }
    }

    @Test func `many SAs are held with certificates too`() throws {
        let memory = try IKEBenchmark.memory(
            sas: 20, proposal: Self.proposal, authentication: .ed25519, progress: { _ in })
        #expect(memory.sas == 20)
    }
}

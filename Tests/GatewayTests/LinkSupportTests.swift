@testable import Gateway
import Configuration
import Dataplane
import Testing

@Suite("Interfaces that cannot be used, or only slowly")
struct LinkSupportTests {
    private func keeper(_ kernel: FakeKernel, _ dataplane: FakeDataplane, told: @escaping (String) -> Void) -> PortKeeper {
        PortKeeper([.init(name: "lan0", role: .protected)], dataplane: dataplane, kernel: kernel, log: { told($1) })
    }

    @Test(arguments: [("bridge", "name br0 in `interfaces`"), ("bond", "the bond br0"), ("vrf", "the VRF br0")])
    func `an interface with a master is not attached, let go when it gets one, and named`(kind: String, word: String) {
        let (kernel, dataplane) = (FakeKernel(), FakeDataplane())
        var log: [String] = []
        let ports = keeper(kernel, dataplane) { log.append($0) }
        ports.synchronize(now: at(0))
        #expect(dataplane.takeCalls() == [.attach("lan0")])
        kernel.view.links[11] = .init(index: 11, name: "br0", isUp: true, isRunning: true, mtu: 1500, mac: [], kind: kind)
        kernel.view.links[3]?.masterIndex = 11
        for second in 1...3 { ports.synchronize(now: at(Double(second))) }
        #expect(dataplane.takeCalls() == [.detach(0)] && ports.attached.isEmpty && ports.nextRetry == nil)
        #expect(ports.problems["lan0"]?.contains(word) == true && log.count { $0.contains(word) } == 1)
        kernel.view.links[3]?.masterIndex = nil
        ports.synchronize(now: at(9))
        #expect(dataplane.takeCalls() == [.attach("lan0")] && ports.problems.isEmpty)
    }

    @Test func `a macvlan that goes the slow way is named, one that does not and other kinds are not`() {
        for (kind, mode, isNamed) in [("macvlan", "generic", true), ("macvlan", "native", false), ("veth", "generic", false)] {
            let (kernel, dataplane) = (FakeKernel(), FakeDataplane())
            dataplane.xdpMode = mode
            kernel.view.links[3]?.kind = kind
            var log: [String] = []
            keeper(kernel, dataplane) { log.append($0) }.synchronize(now: at(0))
            #expect(log.contains { $0.contains("slow way") } == isNamed, "\(kind) \(mode)")
        }
    }
}

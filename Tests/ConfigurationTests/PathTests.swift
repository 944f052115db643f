import Configuration
import IKE
import Testing
import Wire

@Suite struct PathTests {
    @Test func `what a connection does with its paths has defaults`() throws {
        let paths = try #require(try accepted(good).connections.first).paths
        #expect(paths.fragmentation && paths.fragmentDatagramBytes == 1280 && paths.mobike && paths.followsRedirects)
        #expect(paths.natKeepalive == nil && paths.redirectTo == nil)
        #expect(paths.otherLocalAddresses.isEmpty && paths.otherRemoteAddresses.isEmpty)
    }

    @Test func `either side may have several addresses, in order of preference`() throws {
        let text = try changed("address: 192.0.2.1,", "address: [192.0.2.1, 198.51.100.1],")
            .replacing("address: 192.0.2.2,", with: "address: [192.0.2.2, 198.51.100.2, 203.0.113.2],")
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.localAddresses.map(\.description) == ["192.0.2.1", "198.51.100.1"])
        #expect(connection.remoteAddresses.map(\.description) == ["192.0.2.2", "198.51.100.2", "203.0.113.2"])
        #expect(connection.localAddress == IPAddress("192.0.2.1") && connection.remoteAddress == IPAddress("192.0.2.2"))
    }

    @Test func `the keys arrive in the model`() throws {
        let keys = """
                fragmentation: off
                fragment_size: 600
                mobike: off
                nat_keepalive: 5s
                redirects: ignore
                redirect_to: gw2.example.com
                children:
            """
        let text = try changed("    children:", keys)
        let paths = try #require(try accepted(text).connections.first).paths
        #expect(!paths.fragmentation && paths.fragmentDatagramBytes == 600 && !paths.mobike && !paths.followsRedirects)
        #expect(paths.natKeepalive == .seconds(5) && paths.redirectTo == .name("gw2.example.com"))
        let off = try #require(
            try accepted(try changed("    children:", "    nat_keepalive: 0\n    children:")).connections.first)
        #expect(off.paths.natKeepalive == .zero)
    }

    @Test func `a gateway redirects every connection that does not say otherwise`() throws {
        let text = "gateway: { redirect_to: 203.0.113.9 }\n" + good
        #expect(try accepted(text).connections.first?.paths.redirectTo == .address(IPAddress("203.0.113.9")!))
        let own =
            "gateway: { redirect_to: 203.0.113.9 }\n"
            + (try changed("    children:", "    redirect_to: 203.0.113.10\n    children:"))
        #expect(try accepted(own).connections.first?.paths.redirectTo == .address(IPAddress("203.0.113.10")!))
    }

    @Test(arguments: [
        ("address: 192.0.2.1,", "address: [],", "6:24 error `address` must be one address or a list of 1 to 8"),
        ("address: 192.0.2.1,", "address: [192.0.2.1, 192.0.2.1],", "6:36 error 192.0.2.1 is given twice in `address`"),
        (
            "address: 192.0.2.1,", "address: [192.0.2.7, 192.0.2.2],",
            "7:13 error `local` and `remote` have the same address 192.0.2.2; a tunnel needs two ends"
        ),
        ("    children:", "    fragment_size: 100\n    children:", "9:20 error `fragment_size` is 100; it must lie in 256…9000"),
        (
            "    children:", "    mobike: on\n    children:",
            "9:13 error `on` is not a value of `mobike`; known: auto, off"
        ),
        (
            "    children:", "    redirect_to: 300.1.1.1\n    children:",
            "9:18 error `300.1.1.1` in `redirect_to` is neither an address nor a host name like `gw2.example.com`"
        ),
        (
            "    children:", "    fragmentatoin: off\n    children:",
            "9:5 error unknown key `fragmentatoin` in a connection; did you mean `fragmentation`?"
        ),
    ])
    func `mistakes are told where they stand`(old: String, new: String, told: String) throws {
        let errors = Self.errors(try changed(old, new))
        #expect(errors.contains(told), "\(errors)")
    }

    static func errors(_ text: String) -> [String] { told(parse(text)) }
}

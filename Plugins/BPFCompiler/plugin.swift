import PackagePlugin
@main struct BPFCompiler: BuildToolPlugin { func createBuildCommands(context: PluginContext, target: Target) throws -> [Command] { [] } }

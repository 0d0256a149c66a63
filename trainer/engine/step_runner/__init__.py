"""Steps that call the user's `StepRunner`, torchkeras' extension point."""

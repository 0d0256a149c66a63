"""Steps of the user's own `StepRunner`, torchkeras' extension point."""
